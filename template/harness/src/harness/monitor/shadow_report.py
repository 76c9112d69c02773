"""A comparison from the store, and on paper: JSON for programs, one HTML page for people."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from markupsafe import Markup

from harness import pilot
from harness.control import Control, StateUnreadable
from harness.errors import Inconclusive, PilotError
from harness.files import whole_file
from harness.governance.document import examine
from harness.governance.rollout import LEAST_DECISIONS, Rollout
from harness.monitor.page import opened
from harness.monitor.shadow import Compared, Least, Parted, Share
from harness.monitor.shadow_compare import compare
from harness.pipeline.reference import Reference, load_reference
from harness.progress import Report
from harness.settings import Settings
from harness.store import DecisionStore, ShadowStore
from harness.store.shadow import FAILED

TEMPLATE = "shadow.html.j2"
ROLLOUT = Path("governance", "rollout.yaml")
LEAST_HOURS = 24.0


def look(settings: Settings, tell: Report, *, model: str = "", since: str = "") -> Compared:
    """Compare a model in shadow with what was decided.

    Args:
        settings: The pilot's settings.
        tell: Told how far it is.
        model: The beginning of a model's digest; by default the model on trial.
        since: ISO 8601, UTC; empty for all.

    Raises:
        Inconclusive: No model is on trial, and none is named.
        PilotError: The contract cannot be loaded, the store does not answer, or no such model ran in shadow.
    """
    contract = pilot.load_contract(settings.pilot.package)
    store = DecisionStore(settings.sqlite_url(settings.store.url))
    try:
        kept = ShadowStore(store.database)
        on_trial, sandbox = _in_force(settings)
        digest = _chosen(kept, model) if model else on_trial
        if digest is None:
            raise Inconclusive(
                "no model is on trial, so none runs in shadow",
                where=str(settings.path(settings.control.folder)),
                mend="Promote one, or name one that ran in shadow with --model.",
            )
        counts = kept.counts(digest, since, sandbox=sandbox)
        expected = max(counts.by_status["ok"], 1)
        return compare(
            digest,
            counts,
            kept.pairs(digest, since, sandbox=sandbox),
            contract,
            _reference(settings, digest),
            Least(_least(settings), LEAST_HOURS),
            sandbox=sandbox,
            read=lambda read: tell(f"{read:,} pairs", min(read / expected, 1.0)),
        )
    finally:
        store.close()


def document(found: Compared) -> dict[str, Any]:
    """Everything that was found, as plain data."""
    return {
        "schema_version": 1,
        "enough": not found.missing,
        "missing": list(found.missing),
        "model": found.digest,
        "sandbox": found.sandbox,
        "first_at": found.counts.first_at,
        "last_at": found.counts.last_at,
        "decisions": found.counts.total,
        "by_status": found.counts.by_status,
        "rates": {
            "failed": found.rate(*FAILED),
            **{status: found.rate(status) for status in found.counts.by_status},
        },
        "agreement": _share(found.agreement),
        "elapsed_ms": None
        if found.elapsed_ms is None
        else {"p50": found.elapsed_ms[0], "p99": found.elapsed_ms[1]},
        "scores": None if found.deltas is None else asdict(found.deltas),
        "segments": [
            {"field": each.field, "label": each.label, **_share(each.agreement)} for each in found.segments
        ],
        "left_out": dict(found.left_out),
        "outcomes": None if found.truth is None else asdict(found.truth),
        "worst": [_parted(each) for each in found.worst],
    }


def write_page(settings: Settings, found: Compared, file: Path) -> None:
    """Write the page.

    Raises:
        PilotError: It cannot be written.
    """
    try:
        with whole_file(file) as beside:
            beside.write_text(page(settings, found), encoding="utf-8")
    except OSError as error:
        raise PilotError(
            f"the page cannot be written: {error.strerror}", where=str(file), mend="Name another place."
        ) from error


def page(settings: Settings, found: Compared) -> str:
    """The page: it needs no network, and holds no value of a record but the labels of its parts."""
    from harness.monitor import shadow_plots

    plots = []
    if found.deltas is not None:
        told = f"{found.deltas.pairs:,} pairs in which both are a model's"
        plots.append(("The scores apart", told, shadow_plots.differences(found.deltas)))
        darker = f"{told}; the darker, the more"
        plots.append(("The scores beside each other", darker, shadow_plots.scores(found.deltas)))
    if found.segments:
        title = "Agreement, with its 95% interval"
        plots.append((title, "in parts of the pairs", shadow_plots.agreement(found.segments)))
    return opened(TEMPLATE).render(
        pilot=settings.pilot.name,
        found=found,
        failed=FAILED,
        choice=found.choice,
        plots=[(title, caption, Markup(svg)) for title, caption, svg in plots],  # matplotlib escapes labels
        plain=lambda written: json.loads(written),
    )


def _in_force(settings: Settings) -> tuple[str | None, bool]:
    """The model on trial, and whether this pilot stands in the sandbox."""
    try:
        state = Control(settings.path(settings.control.folder)).state()
    except StateUnreadable as error:
        raise PilotError(
            f"the control state cannot be trusted: {error}",
            where=str(settings.path(settings.control.folder)),
            mend="Restore state.json from a backup; `pilot status` says more.",
        ) from error
    if state is None:
        return None, True
    return (state.challenger.digest if state.challenger else None), state.stage == "sandbox"


def _chosen(kept: ShadowStore, model: str) -> str:
    known = kept.models()
    found = [digest for digest in known if digest.startswith(model)]
    if len(found) == 1:
        return found[0]
    names = ", ".join(digest[:12] for digest in known[:5]) or "none"
    what = "several models" if found else "no model"
    raise PilotError(
        f"{what} whose digest begins so ran in shadow",
        where=f"--model {model}",
        mend=f"Use one of these: {names}.",
    )


def _reference(settings: Settings, digest: str) -> Reference | None:
    try:
        return load_reference(settings.path(settings.serving.models) / digest)
    except (PilotError, OSError):
        return None  # numbers are not divided then, and the report says so


def _least(settings: Settings) -> int:
    """What rollout.yaml asks of the stage shadow; while that file has mistakes, the least that it may ask."""
    rollout, _ = examine(settings.path(ROLLOUT), Rollout)
    return rollout.stages.shadow.leave.decisions if rollout is not None else LEAST_DECISIONS


def _share(share: Share) -> dict[str, Any]:
    interval = share.interval
    return {
        "agreeing": share.count,
        "pairs": share.of,
        "share": share.value,
        "interval_95": None if interval is None else list(interval),
    }


def _parted(parted: Parted) -> dict[str, Any]:
    pair = parted.pair
    return {
        "decision_id": pair.decision_id,
        "decided_at": pair.decided_at,
        "decided": json.loads(pair.served),
        "decided_score": pair.served_score,
        "decided_by": pair.assigned if pair.served_score is not None else "fallback",
        "shadow": json.loads(pair.shadow),
        "shadow_score": pair.shadow_score,
        "distance": parted.distance,
        "outcome": None if pair.outcome is None else json.loads(pair.outcome),
        "better": parted.better,
    }
