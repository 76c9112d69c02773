"""What the run, the data and the model have to show."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import timedelta

from harness import pilot
from harness.errors import PilotError
from harness.governance.document import text_of
from harness.governance.explain import Finding
from harness.governance.model_card import FIGURES
from harness.governance.rules import Problem
from harness.governance.values import Unfilled, is_placeholder
from harness.pipeline import layout, record
from harness.pipeline.manifest import verify
from harness.readiness import loaded, lock
from harness.readiness.case import Case, Requirement, Unknown

LONGEST = timedelta(days=90)
A_YEAR_S = 365 * 24 * 3600
STAGED = ("data/raw", "data/valid.parquet", "data/features", "data/model", "data/package")
FOLDERS = ("src", "harness", "governance", "docs", "evidence")
TOGETHER = (*FOLDERS, "pilot.toml", "params.yaml", "dvc.yaml", "dvc.lock")


def _run(case: Case) -> Iterator[Problem]:
    case.run  # noqa: B018 - reading it is the question
    missing = [path for path in STAGED if path not in case.locked]
    if missing:
        yield Problem("dvc.lock", f"no stage has made {', '.join(missing)}")


def _fresh(case: Case) -> Iterator[Problem]:
    age = case.now - case.run.produced_at
    if age > LONGEST:
        yield Problem("evidence/run.json", f"it is {age.days} days old, and {LONGEST.days} are allowed")
    elif age < -timedelta(minutes=10):
        yield Problem(
            "evidence/run.json", f"it is dated {case.run.produced_at:%Y-%m-%d}, which has not come yet"
        )


def _committed(case: Case) -> Iterator[Problem]:
    overlooked = case.overlooked(*TOGETHER)
    if overlooked:
        told = f"git was told to overlook changes of {', '.join(overlooked[:3])}"
        yield Problem("", told, "git update-index --no-assume-unchanged --no-skip-worktree FILE.")
    ignored = case.ignored("src", "harness")
    if ignored:
        told = f"git ignores {', '.join(ignored[:3])}, and Python would run it"
        yield Problem("", told, "Take it out of .gitignore and commit it, or delete it.")
    changed = case.uncommitted(*TOGETHER)
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        yield Problem("", f"not committed: {', '.join(changed[:3])}{more}")


def _same_code(case: Case) -> Iterator[Problem]:
    for name in record.TREES:
        if case.run.trees.get(name) != case.committed_tree(name):
            yield Problem("evidence/run.json", f"it speaks of other code: {name}/ has changed since")


def _same_data(case: Case) -> Iterator[Problem]:
    if case.run.dvc_lock != record.sha256(case.root / layout.LOCK):
        yield Problem("evidence/run.json", "it speaks of other data: dvc.lock has changed since")
    for path in (layout.INGEST, layout.METRICS, layout.QUALITY, layout.PROFILE, layout.PROBES):
        file = case.root / path
        if not file.is_file():
            yield Problem(str(path), "it is missing")
        elif case.locked.get(path.as_posix()) != _md5(file.read_bytes()):
            yield Problem(str(path), "it is not what the stage wrote, whose hash is in dvc.lock")


def _real(case: Case) -> Iterator[Problem]:
    origin = case.run.origin
    written = json.dumps(origin, indent=2, sort_keys=True) + "\n"
    if case.locked.get(layout.ORIGIN.as_posix()) != _md5(written.encode()):
        yield Problem("evidence/run.json", "its origin is not what ingest found, whose hash is in dvc.lock")
    elif origin.get("origin") != "real":
        yield Problem("", f"the model was trained on {origin.get('origin')} data")


def _beats_fallback(case: Case) -> Iterator[Problem]:
    found = case.evidence(layout.METRICS)
    if found.get("model_beats_fallback") is not True:
        name = found.get("compared_by", "")
        figures = [str(found.get(side, {}).get(name)) for side in ("model", "fallback")]
        yield Problem("evidence/metrics.json", f"{name}: model {figures[0]}, fallback {figures[1]}")


def _quality(case: Case) -> Iterator[Problem]:
    found = case.evidence(layout.QUALITY)
    rows, count, bad = (found.get(name, "") for name in ("rows", "bad", "bad_share"))
    whole = isinstance(rows, int) and isinstance(count, int) and isinstance(bad, int | float)
    if not whole or bool in {type(rows), type(count), type(bad)}:
        told = "how many records keep the contract: evidence/quality.json does not say"
        raise Unknown(told, "`pilot run` again.")
    allowed = case.settings.data.max_bad_share
    if rows > 0 and not abs(count / rows - bad) < 1e-6:
        yield Problem("evidence/quality.json", f"{count:,} of {rows:,} records are not {bad:.1%}")
    elif rows <= 0 or not 0 <= bad <= allowed:
        yield Problem("evidence/quality.json", f"{bad:.1%} of {rows:,} records break the contract")


def _read_only(case: Case) -> Iterator[Problem]:
    asked = case.evidence(layout.INGEST).get("credentials")
    if not isinstance(asked, dict) or not all(isinstance(said, dict) for said in asked.values()):
        raise Unknown("whether an account may write: evidence/ingest.json does not say", "`pilot run` again.")
    for system, said in sorted(asked.items()):
        tables = said.get("may_write", False)
        if tables is not None and not isinstance(tables, list):
            raise Unknown(f"whether the account of {system} may write: not in evidence/ingest.json", RUN)
        if tables:
            told = f"the account of {system} may write in {', '.join(map(str, tables))}"
            yield Problem("evidence/ingest.json", told)


def _vouched(case: Case) -> Iterator[Problem]:
    contract = pilot.load_contract(case.settings.pilot.package)
    said = {one.name: one.vouched_by.strip() for one in contract.fields}
    bare = [name for name, role in said.items() if not role or is_placeholder(role)]
    if bare:
        yield Problem("contract.py", f"nobody vouches for {', '.join(bare)}")


def _packaged(case: Case) -> Iterator[Problem]:
    digest = case.run.model
    try:
        verify(case.settings.path(case.settings.serving.models, digest), digest)
    except PilotError as error:
        yield Problem("", f"the service would not find the model: {error.what}")


def _figures(case: Case) -> Iterator[Problem]:
    case.evidence(layout.METRICS)
    text = text_of(case.root / lock.CARD, lock.CARD)
    if isinstance(text, Finding):
        raise PilotError(text.what, where=text.where, mend=text.mend)
    found = FIGURES.search(text)
    if found is None:
        yield Problem(lock.CARD, "it has no block ```figures", "Add ```figures and ``` below `## Figures`.")
    elif found[0] != lock.figures(case.root, case.run.model):
        yield Problem(lock.CARD, "its figures are not those of the evidence")


def _load_test(case: Case) -> Iterator[Problem]:
    found, where = loaded.read(case.root), loaded.FILE.as_posix()
    slo, age = case.settings.slo, case.now - found.produced_at
    if found.verdict == "inconclusive":
        raise Unknown(f"whether the SLO holds: {where}: {'; '.join(found.why)}", LOAD)
    if found.verdict == "missed":
        yield Problem(where, f"at {found.volume.rate_per_s:g} a second {'; '.join(found.why)}")
    other = [name for name in record.TREES if found.trees.get(name) != case.committed_tree(name)]
    if other:
        yield Problem(where, f"it speaks of other code: {', '.join(other)} has changed since")
    if found.model != case.run.model:
        told = f"it speaks of another model, {found.model[:12]}, than the run, {case.run.model[:12]}"
        yield Problem(where, told)
    if found.slo != slo:
        yield Problem(where, "it speaks of another SLO than pilot.toml [slo] states")
    elif found.volume.rate_per_s < slo.rate_per_s:
        told = f"{found.volume.rate_per_s:g} a second were tried, and {slo.rate_per_s:g} are stated"
        yield Problem(where, told)
    if age > LONGEST:
        yield Problem(where, f"it is {age.days} days old, and {LONGEST.days} are allowed")
    elif age < -timedelta(minutes=10):
        yield Problem(where, f"it is dated {found.produced_at:%Y-%m-%d}, which has not come yet")


def _volume(case: Case) -> Iterator[Problem]:
    decisions = case.documents.tco.production.decisions
    if isinstance(decisions, Unfilled):
        return  # that it is not filled in is told of the document
    least, stated = decisions / A_YEAR_S, case.settings.slo.rate_per_s
    if stated < least:
        told = f"{stated:g} a second are less than the {decisions:,} decisions a year of governance/tco.yaml"
        yield Problem("pilot.toml [slo] rate_per_s", f"{told}, which are {least:,.1f} a second on average")


RUN = "`pilot run`, and commit what it wrote."
LOAD = loaded.MEND
REQUIREMENTS = (
    Requirement("evidence.run", "shadow", "model", RUN, _run),
    Requirement("evidence.committed", "shadow", "model", "Commit it: gates ask about commits.", _committed),
    Requirement("evidence.code", "shadow", "model", RUN, _same_code),
    Requirement("evidence.data", "shadow", "model", RUN, _same_data),
    Requirement("evidence.fresh", "shadow", "model", RUN, _fresh),
    Requirement("model.real_data", "shadow", "data", "Name your sources in pilot.toml, then run.", _real),
    Requirement("model.beats_fallback", "shadow", "model", "Improve it, or do without.", _beats_fallback),
    Requirement("model.packaged", "shadow", "platform", "`pilot run` on this host.", _packaged),
    Requirement("model.figures", "shadow", "model", "`pilot governance lock` renews them.", _figures),
    Requirement("data.quality", "shadow", "data", "Mend the source, sources.py or the rule.", _quality),
    Requirement("data.read_only", "shadow", "data", "Use an account that only reads, then run.", _read_only),
    Requirement("data.vouched", "shadow", "data", "Write who does: vouched_by.", _vouched),
    Requirement("evidence.load-test", "early", "platform", LOAD, _load_test),
    Requirement("evidence.volume", "early", "platform", "State the volume of the busiest hour.", _volume),
)


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
