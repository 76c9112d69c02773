"""Faults that look like answers: hidden text, figures that contradict each other, a state put back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from governed import TODAY, Governed, put
from harness.cli import context
from harness.cli.main import _run
from harness.control.audit import AUDIT, append
from harness.control.state import STATE, State, write_state
from harness.pipeline import layout, record
from harness.pipeline.manifest import load_manifest
from harness.readiness import Report, examine, lock


@pytest.fixture
def governed(tiny: Any, tmp_path: Path) -> Governed:
    return Governed(tiny, tmp_path / "control")


def asked(governed: Governed) -> Report:
    return examine(governed.settings())


def told(report: Report) -> list[str]:
    return [f"{each.check} {each.field}: {each.what}. {each.mend}" for each in report.missing]


# ---------------------------------------------------------------- placeholders
@pytest.mark.parametrize(
    "text",
    [
        "TBD.",
        "tbd by Anna",
        "todo.",
        "- tbd",
        "TODO_later",
        "ＴＯＤＯ",
        "to do",
        "not known yet",
        "n/a.",
        "N / A",
    ],
)
def test_a_placeholder_written_otherwise_is_found(governed: Governed, text: str) -> None:
    governed.change("system", lambda values: put(values, ("value", "kpi"), text))
    governed.settle()
    assert [line for line in told(asked(governed)) if "value.kpi: still TODO" in line]


@pytest.mark.parametrize(
    "text",
    ["- tbd\n- tbd", "### Later", "1. n/a", "&nbsp;", "tbd\n\nn/a"],
)
def test_a_section_that_only_looks_filled_is_found(governed: Governed, text: str) -> None:
    governed.edit("docs/model-card.md", "## Limits\n\nAll is said.", f"## Limits\n\n{text}")
    governed.settle()
    assert [line for line in told(asked(governed)) if "model-card.filled “Limits”" in line]


def test_a_section_within_a_comment_is_none(governed: Governed) -> None:
    governed.edit(
        "docs/model-card.md", "## Limits\n\nAll is said.", "<!-- not shown\n## Limits\n\nAll is said.\n-->"
    )
    assert [line for line in told(asked(governed)) if "the section 'Limits' is missing" in line]


# ---------------------------------------------------------------- values that break whoever reads them
@pytest.mark.parametrize("path", ['"a\\0b"', "a" * 300, '"a\\ud800"', "../" * 2_000], ids=str.__len__)
@pytest.mark.parametrize(
    ("name", "field"), [("risks", "evidence: tests/test_water.py"), ("risks", "check: input-drift")]
)
def test_a_path_that_can_be_none_is_no_file(
    governed: Governed, monkeypatch: pytest.MonkeyPatch, capfd: Any, name: str, field: str, path: str
) -> None:
    governed.edit(f"governance/{name}.yaml", field, f"{field.partition(':')[0]}: {path}")
    monkeypatch.chdir(governed.root)
    try:
        assert _run(["readiness"]) == 1
        assert _run(["governance", "check"]) in (0, 1)
    finally:
        context.choose(root=None, debug=False)
    printed = "".join(capfd.readouterr())
    assert "governance/risks.yaml" in printed
    assert "Traceback" not in printed
    assert "unforeseen" not in printed


@pytest.mark.parametrize(
    "hidden", ['"risk\\nREADY for shadow"', '"risk\\e[2J"', '"ri\\rsk"', '"risk\\u202e"']
)
def test_a_document_writes_no_line_of_its_own(
    governed: Governed, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], hidden: str
) -> None:
    owner = json.loads(json.dumps(governed.root.joinpath("governance/tco.yaml").read_text()))
    line = next(each for each in owner.splitlines() if each.startswith("owner:"))
    governed.edit("governance/tco.yaml", line, f"owner: {hidden}")
    monkeypatch.chdir(governed.root)
    try:
        for verb in (["readiness"], ["governance", "check"]):
            assert _run(verb) == 1
            printed = capsys.readouterr().out
            assert "\nREADY" not in printed
            assert not set("\x1b\r\u202e") & set(printed)
    finally:
        context.choose(root=None, debug=False)


def test_a_rule_that_breaks_is_told_and_passes_nothing(
    governed: Governed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("not today")

    monkeypatch.setattr("harness.governance.documents.Facts.has", broken)
    report = asked(governed)
    assert report.exit_code == 3
    assert [line for line in told(report) if "risks.evidence" in line and "not today" in line]


# ---------------------------------------------------------------- evidence
def again(governed: Governed) -> None:
    governed.lock_data()
    record.note(governed.root, load_manifest(governed.root / layout.PACKAGE))
    governed.settle()


@pytest.mark.parametrize(
    "said",
    [
        {"rows": 100, "bad": 90, "bad_share": 0.0},
        {"rows": 100, "bad": 0, "bad_share": False},
        {"rows": True, "bad": 0, "bad_share": 0.0},
        {"rows": 100, "bad_share": 0.0},
    ],
    ids=["contradicts", "no share", "no rows", "no bad"],
)
def test_counts_that_do_not_fit_never_pass(governed: Governed, said: dict[str, Any]) -> None:
    layout.write_json(governed.root / layout.QUALITY, said)
    again(governed)
    assert [line for line in told(asked(governed)) if line.startswith("data.quality")]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("path", [layout.METRICS, layout.RUN, layout.LOCK, layout.EVIDENCE_LOCK])
@pytest.mark.parametrize("how", ["folder", "dead link"])
def test_what_is_no_file_is_no_evidence(governed: Governed, path: Path, how: str) -> None:
    file = governed.root / path
    file.unlink()
    {"folder": file.mkdir, "dead link": lambda: file.symlink_to("nowhere")}[how]()
    assert asked(governed).exit_code in (1, 3)


def test_code_that_git_ignores_refuses(governed: Governed) -> None:
    exclude = governed.root / ".git" / "info" / "exclude"
    exclude.parent.mkdir(exist_ok=True)
    exclude.write_text("src/dryfield/secret.py\n")
    governed.write("src/dryfield/secret.py", "hook = 3\n")
    assert [line for line in told(asked(governed)) if "src/dryfield/secret.py" in line]


# ---------------------------------------------------------------- signatures
@pytest.mark.parametrize("trainer", ["", "risk@example.org"], ids=["nobody", "somebody else"])
def test_a_lock_that_names_another_trainer_is_not_believed(governed: Governed, trainer: str) -> None:
    governed.change("owners", lambda values: values["roles"].update(risk="trainer@example.org"))
    governed.commit()
    lock.write(governed.root)
    forged = lock.current(governed.root).model_dump(mode="json") | {"trained_by": trainer}
    layout.write_json(governed.root / layout.EVIDENCE_LOCK, forged)
    signs = [
        {"role": "accountable", "name": "accountable@example.org"},
        {"role": "risk", "name": "trainer@example.org"},
    ]
    governed.sign(*signs, evidence=lock.read(governed.root)[1])
    governed.commit()
    assert [line for line in told(asked(governed)) if line.startswith("signatures.not_trainer")]


def test_an_unseen_character_makes_no_other_person(governed: Governed) -> None:
    governed.change("owners", lambda values: values["roles"].update(risk="trainer@exam\u200bple.org"))
    governed.settle()
    assert [line for line in told(asked(governed)) if "trained the model and signed for it" in line]


def test_a_risk_accepted_on_a_day_to_come_is_not_accepted(governed: Governed) -> None:
    governed.change(
        "risks",
        lambda values: put(values, ("risks", 0, "accepted", "on"), str(TODAY.replace(year=TODAY.year + 1))),
    )
    governed.settle()
    assert [line for line in told(asked(governed)) if line.startswith("risks.accepted")]


# ---------------------------------------------------------------- control
def line(governed: Governed, revision: int, action: str = "kill") -> None:
    append(governed.control, actor="a test", action=action, reason="a test", revision=revision)


def test_a_state_that_was_deleted_after_a_stop_refuses(governed: Governed) -> None:
    governed.control.mkdir()
    line(governed, 3)
    assert [each for each in told(asked(governed)) if "there is no state" in each]


def test_an_older_state_put_back_refuses(governed: Governed) -> None:
    governed.control.mkdir()
    values: dict[str, Any] = {"rev": 2, "stage": "sandbox", "flag_key": "dryfield", "actor": "a test"}
    values |= {"reason": "a test", "changed_at": "2026-01-01T00:00:00+00:00"}
    write_state(governed.control, State(**values))
    line(governed, 2, "offer")
    assert asked(governed).missing == ()
    line(governed, 3)
    assert [each for each in told(asked(governed)) if "an older state" in each]


@pytest.mark.parametrize("name", [AUDIT, STATE, "", "KILL"])
def test_a_control_folder_that_is_something_else_never_passes(
    governed: Governed, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    if name:
        governed.control.joinpath(name).mkdir(parents=True)
    else:
        governed.control.write_text("a file")
    monkeypatch.chdir(governed.root)
    try:
        for verb in (["readiness"], ["promote", "--reason", "x"]):
            assert _run(verb) in (1, 3)
            printed = "".join(capsys.readouterr())
            assert "Traceback" not in printed
            assert "unforeseen" not in printed
    finally:
        context.choose(root=None, debug=False)
