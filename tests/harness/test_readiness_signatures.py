"""A signature stands for exactly what was there, and for nothing that came later."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from governed import TODAY, Governed, git
from harness.errors import PilotError
from harness.pipeline import layout, record
from harness.readiness import Report, examine, lock


@pytest.fixture
def governed(tiny: Any, tmp_path: Path) -> Governed:
    return Governed(tiny, tmp_path / "control")


def asked(governed: Governed, **options: Any) -> Report:
    return examine(governed.settings(), **options)


def found(report: Report) -> dict[str, str]:
    return {each.check: f"{each.field}: {each.what}. {each.mend}" for each in report.missing}


# ---------------------------------------------------------------- what a signature is worth
def after_signing(governed: Governed, path: str, old: str, new: str) -> set[str]:
    """What refuses when a file is changed after the signatures, and somebody renews the lock as well."""
    before = lock.read(governed.root)[1]
    governed.edit(path, old, new)
    governed.commit()
    stale = set(found(asked(governed)))
    layout.write_json(
        governed.root / layout.EVIDENCE_LOCK, lock.current(governed.root).model_dump(mode="json")
    )
    governed.commit()
    assert lock.read(governed.root)[1] != before
    renewed = found(asked(governed))
    assert "signed something else than what is there now" in renewed["signatures.signed"]
    return stale


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        ("governance/system.yaml", "An answer to value.kpi", "TODO"),
        ("evidence/metrics.json", "true", "true "),
        ("src/dryfield/model.py", "hook = None", "hook = 0"),
        ("dvc.lock", "0" * 32, "3" * 32),
        ("governance/rollout.yaml", "days: '14'", "days: '13'"),
        ("docs/model-card.md", "All is said.", "All is well."),
        ("pilot.toml", 'team = "fields"', 'team = "meadows"'),
    ],
)
def test_a_change_after_signing_asks_for_new_signatures(
    governed: Governed, path: str, old: str, new: str
) -> None:
    assert "signatures.locked" in after_signing(governed, path, old, new)


def test_a_lock_that_was_edited_fits_no_signature(governed: Governed) -> None:
    governed.edit(layout.EVIDENCE_LOCK.as_posix(), "trainer@example.org", "nobody@example.org")
    governed.commit()
    assert "signed something else" in found(asked(governed))["signatures.signed"]


def test_signing_changes_no_lock_and_a_comment_no_signature(governed: Governed) -> None:
    digest, new = lock.write(governed.root)
    assert not new
    governed.edit("governance/rollout.yaml", "owner:", "# a thought\nowner:")
    governed.commit()
    assert lock.write(governed.root) == (digest, False)
    assert asked(governed).exit_code == 0


def test_a_squash_and_a_shallow_clone_keep_every_signature(governed: Governed, tmp_path: Path) -> None:
    git(governed.root, "checkout", "-q", "--orphan", "squashed")
    governed.commit()
    assert asked(governed).exit_code == 0
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{governed.root}", str(clone))
    moved = examine(governed.settings().model_copy(update={"root": clone}))
    # What no clone has: the packaged model, which lies on the host that serves.
    assert set(found(moved)) == {"model.packaged"}


def test_a_pilot_below_the_repositorys_top_is_bound_by_its_own_trees(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(tiny.root.parent, "init", "-q", "-b", "main")
    (tiny.root.parent / ".gitignore").write_text("/control/\n")

    def above(root: Path, *rest: str, **more: Any) -> str:
        return "" if rest[0] == "init" else git(root, *rest, **more)

    monkeypatch.setattr("governed.git", above)
    nested = Governed(tiny, tmp_path / "control")
    assert asked(nested).missing == ()
    nested.edit("src/dryfield/model.py", "hook = None", "hook = None  # not what was trained")
    nested.commit()
    assert "src/ has changed" in found(asked(nested))["evidence.code"]


def test_nothing_is_locked_that_was_not_committed_or_run(governed: Governed) -> None:
    governed.edit("src/dryfield/model.py", "hook = None", "hook = 1")
    with pytest.raises(PilotError, match=r"1 files are not committed, src/dryfield/model.py among them"):
        lock.write(governed.root)
    governed.commit()
    (governed.root / layout.RUN).unlink()
    with pytest.raises(PilotError, match="the record of a run is missing"):
        lock.write(governed.root)


def test_a_run_that_made_the_same_is_no_change_to_commit_for_a_month(
    governed: Governed, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.pipeline.manifest import load_manifest

    manifest, file = load_manifest(governed.root / layout.PACKAGE), governed.root / layout.RUN
    before = file.read_bytes()
    record.note(governed.root, manifest)
    assert file.read_bytes() == before
    old = json.loads(before)
    old["produced_at"] = (datetime.now(UTC) - timedelta(days=31)).isoformat()
    layout.write_json(file, old)
    record.note(governed.root, manifest)
    assert record.read(governed.root).produced_at.date() == TODAY


def test_a_run_names_the_code_that_it_ran_before_it_was_committed(governed: Governed) -> None:
    governed.edit("src/dryfield/model.py", "hook = None", "hook = 2")
    governed.run()
    staged = git(governed.root, "diff", "--cached", "--name-only")
    assert staged == "", "what somebody has staged stays as it is"
    governed.settle()
    assert asked(governed).exit_code == 0
