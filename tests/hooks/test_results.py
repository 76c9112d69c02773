"""How checks are run and told: exit codes, JSON, and that nothing reads as a pass that is none."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pilot_template.hooks import CHECKS, Check, Finding, Severity, Status, Tree, Unknown, cli, run


def failing(_: Tree) -> Iterator[Finding]:
    """Nothing is ever right."""
    yield Finding("b.txt", "it is wrong", "Mend it.", line=3)
    yield Finding("a.txt", "it is wrong", "Mend it.")
    yield Finding("a.txt", "it is wrong", "Mend it.")


def blind(_: Tree) -> Iterator[Finding]:
    """Nobody can look."""
    raise Unknown("it is dark")
    yield


def broken(_: Tree) -> Iterator[Finding]:
    """The disk is broken."""
    raise OSError("a bad sector")
    yield


def good(_: Tree) -> Iterator[Finding]:
    """All is well.

    For a
    reason.
    """
    return iter(())


def check(look: object, severity: Severity = Severity.ERROR, number: str = "PT999") -> Check:
    return Check(number, f"made-up-{number}", severity, "nothing", look)  # type: ignore[arg-type]


def test_ids_are_unique_and_of_one_form_and_in_order() -> None:
    ids = [each.id for each in CHECKS]
    assert ids == sorted(set(ids))
    assert all(re.fullmatch(r"PT[1-4]\d\d", each) for each in ids)
    assert len({each.name for each in CHECKS}) == len(CHECKS)


# Waivers and reports of others name them: an id or a name that changes breaks those. Append only.
KNOWN = {
    "PT101": "standard-files",
    "PT102": "answers-file",
    "PT201": "governance-documents",
    "PT301": "conflict-leftovers",
    "PT302": "large-files",
    "PT303": "data-files",
    "PT401": "pipeline-lock",
}


def test_ids_stay() -> None:
    assert KNOWN.items() <= {each.id: each.name for each in CHECKS}.items()
    assert {each.id for each in CHECKS} <= set(KNOWN), "add the new check to the list"


@pytest.mark.parametrize("each", CHECKS, ids=lambda each: each.id)
def test_every_check_says_what_holds_and_why(each: Check) -> None:
    assert each.says.endswith(".")
    assert each.why.endswith(".")
    assert "\n" not in each.says + each.why


def test_findings_are_told_once_and_in_order() -> None:
    outcome = run(check(failing), Tree(Path()))
    assert [str(finding) for finding in outcome.findings] == [
        "a.txt: it is wrong. Mend it.",
        "b.txt line 3: it is wrong. Mend it.",
    ]


@pytest.mark.parametrize("look", [blind, broken])
def test_a_check_that_could_not_look_is_unknown(look: object) -> None:
    outcome = run(check(look), Tree(Path()))
    assert outcome.status is Status.UNKNOWN
    assert outcome.reason in ("it is dark", "a bad sector")


@pytest.mark.parametrize(
    ("checks", "code"),
    [
        ([check(good)], 0),
        ([check(good), check(failing)], 1),
        ([check(blind), check(failing)], 1),
        ([check(good), check(blind)], 3),
        ([check(good), check(failing, Severity.WARNING)], 0),
        ([check(blind, Severity.WARNING)], 3),
    ],
)
def test_exit_codes(checks: list[Check], code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "CHECKS", checks)
    assert cli.main([]) == code


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["PT000"], "there is no check PT000. `pilot-checks --list` says"),
        (["--only", "PT000"], "there is no check PT000"),
        (["--root", "/nonexistent"], "/nonexistent: there is no such folder"),
    ],
)
def test_wrong_use(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 2
    assert said in capsys.readouterr().err


def test_an_unknown_option_is_wrong_use() -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--rot"])
    assert ended.value.code == 2


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [[each.id, each.name] for each in CHECKS]


def test_checks_are_chosen_by_id_or_name_and_told_as_json(
    fresh: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (fresh / "Makefile").write_text("ours\n")
    assert cli.main(["--root", str(fresh), "--json", "PT101", "--only", "pipeline-lock"]) == 1
    standard, lock = json.loads(capsys.readouterr().out)
    assert (standard["check"], standard["name"], standard["severity"]) == ("PT101", "standard-files", "error")
    (finding,) = standard["findings"]
    assert (finding["file"], finding["line"]) == ("Makefile", None)
    assert (lock["status"], lock["reason"]) == ("skipped", "no run has been committed yet")


def test_what_was_skipped_is_told(fresh_once: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--root", str(fresh_once), "--same-version"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "PT401 pipeline-lock: skipped: no run has been committed yet",
        "6 passed, 1 skipped",
    ]
