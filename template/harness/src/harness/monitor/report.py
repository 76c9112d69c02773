"""A run on paper: JSON for programs, one HTML page for people, both below var/monitor."""

from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.files import whole_file
from harness.monitor.judge import Found, Judged
from harness.monitor.measures import EMPTY_BIN_RECORDS, EXPECTED_RECORDS
from harness.monitor.page import pages
from harness.monitor.watch import Watch, Watched
from harness.monitor.windows import written
from harness.settings import Settings

FOLDER = Path("var", "monitor")
LATEST = FOLDER / "latest.html"
RUNBOOK = Path("docs", "runbook.md")
# A page is some hundred kilobytes, and a monitor runs every hour.
KEEP_RUNS = 200


@dataclass(frozen=True)
class Written:
    """Where a run was written to.

    Attributes:
        json: The document.
        page: The page.
    """

    json: Path
    page: Path


def document(watch: Watch) -> dict[str, Any]:
    """Everything that a run found and did, as plain data."""
    return {
        "schema_version": 1,
        "verdict": watch.verdict,
        "exit_code": watch.exit_code,
        "at": written(watch.at),
        "window_hours": watch.document.window_hours,
        "outcome_window_hours": watch.document.outcome_window_hours,
        "false_alarms": watch.document.false_alarms,
        "looked_at_since": written(watch.since) if watch.since else None,
        "method": {"empty_bin_records": EMPTY_BIN_RECORDS, "expected_records": EXPECTED_RECORDS},
        "models": [_model(model) for model in watch.models],
        "signals": [_signal(watch, model, each) for model in watch.models for each in model.signals],
        "actions": [
            {
                "action": each.action,
                "signals": list(each.signals),
                "taken": each.response is not None and each.response.taken,
                "in_force": each.response is not None,
                "revision": each.response.state.rev if each.response and each.response.state else None,
                "said": each.said,
            }
            for each in watch.actions
        ],
        "problems": watch.problems,
    }


def write(settings: Settings, watch: Watch) -> Written:
    """Write both files into a folder of this run, and beside it as the latest.

    Raises:
        OSError: They could not be written.
    """
    name = watch.at.strftime("%Y-%m-%dT%H-%M-%SZ")
    folder = settings.path(FOLDER)
    run = folder / name
    run.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document(watch), indent=2, ensure_ascii=False) + "\n"
    places = ((run, "monitor"), (folder, "latest"))
    for place, stem in places:
        _write(place / f"{stem}.json", text)
    runbooks = [os.path.relpath(settings.path(RUNBOOK), place) for place, _ in places]
    for (place, stem), page in zip(places, pages(settings, watch, runbooks), strict=True):
        _write(place / f"{stem}.html", page)
    for old in sorted(path for path in folder.iterdir() if path.is_dir())[:-KEEP_RUNS]:
        shutil.rmtree(old, ignore_errors=True)
    return Written(run / "monitor.json", run / "monitor.html")


def figures(watch: Watch) -> dict[str, float]:
    """The run as numbers, for MLflow."""
    found: dict[str, float] = {}
    for model in watch.models:
        for each in model.signals:
            name = f"{model.role}.{each.signal.id}"
            if each.figure is not None and math.isfinite(each.figure.value):
                found[name] = each.figure.value
            found[f"{name}.breached"] = float(each.verdict in ("breached", "failed"))
        found[f"{model.role}.decisions"] = float(sum(each.decisions.decisions for each in model.windows))
    return found


def _model(model: Watched) -> dict[str, Any]:
    return {
        "role": model.role,
        "digest": model.digest,
        "reference_records": model.reference.records,
        "left_out": model.reference.left_out,
        "windows": [
            {
                "start": each.span.first,
                "end": each.span.after,
                "decisions": each.decisions.decisions,
                "model_failed": each.failed,
            }
            for each in model.windows
        ],
        "outcome_windows": [
            {"start": each.received.first, "end": each.received.after, "outcomes": each.outcomes.outcomes}
            for each in model.windows
        ],
    }


def _signal(watch: Watch, model: Watched, judged: Judged) -> dict[str, Any]:
    signal = judged.signal
    return {
        "id": signal.id,
        "category": signal.category,
        "measure": signal.measure,
        "model": model.role,
        "verdict": judged.verdict,
        "why": judged.why,
        "problem": judged.problem,
        "figure": None if judged.figure is None else _figure(judged.figure.name, judged),
        "breached_by": list(judged.names),
        "threshold": signal.threshold,
        "min_samples": signal.min_samples,
        "breaches": signal.breaches,
        "windows": [_window(each) for each in judged.windows],
        "action": signal.action,
        "done": watch.done_about(judged),
        "runbook": f"{RUNBOOK}#{signal.runbook}",
        "owner": signal.owner or watch.document.owner,
    }


def _figure(name: str, judged: Judged) -> dict[str, Any]:
    figure = judged.figure
    assert figure is not None
    return {
        "name": name,
        "value": _plain(figure.value),
        "chance": _plain(figure.chance),
        "samples": figure.samples,
        "detail": figure.detail,
    }


def _window(found: Found) -> dict[str, Any]:
    return {
        "state": found.state,
        "samples": found.samples,
        "breached_by": sorted(found.breaches),
        "figures": [
            {
                "name": each.name,
                "value": _plain(each.value),
                "chance": _plain(each.chance),
                "samples": each.samples,
            }
            for each in found.figures
        ],
    }


def _plain(value: float) -> float | None:
    """A number as JSON has it; infinity is none."""
    return value if math.isfinite(value) else None


def _write(file: Path, text: str) -> None:
    with whole_file(file) as beside:
        beside.write_text(text, encoding="utf-8")
