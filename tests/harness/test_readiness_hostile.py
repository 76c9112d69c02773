"""Whoever wants through a gate without doing the work: each way is refused, in one readable line."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from governed import TODAY, Governed, git
from harness.cli import context
from harness.cli.main import _run
from harness.control import SENTINEL, Slot
from harness.control.audit import AUDIT, append
from harness.control.identity import Actor
from harness.control.proposals import PROPOSAL, approve, propose, read_proposal, waiting
from harness.control.state import STATE, State, write_state
from harness.errors import PilotError
from harness.pipeline import layout, record
from harness.readiness import Report, examine, lock


@pytest.fixture
def governed(tiny: Any, tmp_path: Path) -> Governed:
    return Governed(tiny, tmp_path / "control")


def asked(governed: Governed, **options: Any) -> Report:
    return examine(governed.settings(), **options)


def told(report: Report) -> list[str]:
    found = [f"{each.check} {each.about} {each.field}: {each.what}. {each.mend}" for each in report.missing]
    assert not [line for line in found if "\n" in line or "Traceback" in line]
    return found


def state(governed: Governed, **changes: Any) -> None:
    values = {"rev": 3, "stage": "sandbox", "flag_key": "dryfield", "actor": "a test", "reason": "a test"}
    values |= {"changed_at": "2026-01-01T00:00:00+00:00", **changes}
    governed.control.mkdir(parents=True, exist_ok=True)
    write_state(governed.control, State(**values))


# ---------------------------------------------------------------- placeholders in odd places
HIDDEN = {
    "small": "todo",
    "small with a wish": "todo: ask Anna",
    "bracketed": "[TODO]",
    "angled": "<todo>",
    "quoted": "'TODO'",
    "starred": "**TODO** later",
    "blank before": "  TODO",
    "no-break space": "\u00a0TODO",
    "unseen before": "\u200bTODO",
    "nothing but unseen": "\u200b\u200b",
    "at the end": "Anna (TODO: her number)",
    "n/a": "n/a",
    "N.A.": "N.A.",
    "null": "null",
    "tilde": "~",
    "to be decided": "to be decided",
    "dashes": "---",
}


@pytest.mark.parametrize("text", HIDDEN.values(), ids=HIDDEN)
def test_a_hidden_placeholder_is_found(governed: Governed, text: str) -> None:
    governed.change("system", lambda values: values["value"].update(kpi=text))
    governed.settle()
    assert [line for line in told(asked(governed)) if "value.kpi: still TODO" in line]


def test_a_placeholder_in_a_list_or_as_a_name_is_found(governed: Governed) -> None:
    governed.change("risks", lambda values: values["assumptions"][0].update(what="todo"))
    governed.change("stakeholders", lambda values: values["groups"][2].update(loses="TBD: ask"))
    governed.change(
        "integrations", lambda values: values["downstream"].update(TODO=values["downstream"].pop("consumer"))
    )
    governed.settle()
    found = told(asked(governed))
    for field in ("assumptions.0.what", "groups.2.loses", "downstream.TODO"):
        assert [line for line in found if f" {field}: still TODO" in line], field


@pytest.mark.parametrize("nothing", ["''", "   ", "~", "null"])
def test_an_empty_value_is_no_answer(governed: Governed, nothing: str) -> None:
    governed.edit("governance/system.yaml", "kpi: An answer to value.kpi", f"kpi: {nothing}")
    governed.settle()
    assert [line for line in told(asked(governed)) if "value.kpi" in line]


@pytest.mark.parametrize("text", ["<!-- later -->", "tbd", "n/a", "Ask Anna. TODO", "...", "- [ ] TODO"])
def test_a_section_that_says_nothing_is_found(governed: Governed, text: str) -> None:
    governed.edit("docs/model-card.md", "## Limits\n\nAll is said.", f"## Limits\n\n{text}")
    governed.settle()
    assert [line for line in told(asked(governed)) if "model-card.filled" in line]


def test_a_placeholder_above_the_first_section_is_found(governed: Governed) -> None:
    governed.edit("docs/model-card.md", "## What it decides", "TODO: the date\n\n## What it decides")
    governed.settle()
    assert [line for line in told(asked(governed)) if "above the first heading" in line]


# ---------------------------------------------------------------- files that are no documents
def linked(file: Path) -> None:
    elsewhere = file.rename(file.with_name("elsewhere"))
    file.symlink_to(elsewhere)


def folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def inserted(text: str) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        before = file.read_text(encoding="utf-8")
        if file.suffix == ".md":
            file.write_text(before.replace("---\n", f"---\n{text}", 1), encoding="utf-8")
        else:
            file.write_text(f"{text}{before}", encoding="utf-8")

    return change


def encoded(how: str) -> Callable[[Path], None]:
    return lambda file: (file.write_bytes((file.read_text() + "\n# ä\n").encode(how)), None)[1]


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (Path.unlink, "the file is missing"),
    "a link": (linked, "it is a link"),
    "a dead link": (lambda file: (file.unlink(), file.symlink_to("nowhere")), "it is a link"),
    "a folder": (folder, "it is no file"),
    "a pipe": (pipe, "it is no file"),
    "empty": (lambda file: file.write_text(""), "it holds no keys|front matter"),
    "huge": (lambda file: file.write_text(file.read_text() + "#" * 1_100_000), "bytes. Keep it short"),
    "latin-1": (encoded("latin-1"), "it is not UTF-8 text"),
    "utf-16": (encoded("utf-16"), "it is not UTF-8 text"),
    "an anchor": (inserted("one: &a [x]\ntwo: *a\n"), r"'\*a' stands for what is written elsewhere"),
    "itself": (inserted("one: &a [*a]\n"), r"'\*a' stands for what is written elsewhere"),
    "a merge": (inserted("one: &a {b: c}\n<<: *a\n"), r"'\*a' stands for what is written elsewhere"),
    "twice": (inserted("owner: risk\n"), "the key 'owner' is given twice"),
    "python": (inserted("one: !!python/object/apply:os.system [id]\n"), "the tag '.*' means nothing"),
    "a tag": (inserted("one: !secret x\n"), "the tag '!secret' means nothing"),
    "deep": (inserted(f"one: {'[' * 2_000}\n"), "not valid YAML"),
    "a bell": (inserted("one: \x07\n"), "not valid YAML: special characters"),
    "a tab": (inserted("one:\n\t- x\n"), "not valid YAML"),
}


@pytest.mark.parametrize("path", ["governance/owners.yaml", "governance/rollout.yaml", "docs/model-card.md"])
@pytest.mark.parametrize("how", BROKEN)
def test_a_document_that_is_none_refuses(
    governed: Governed,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    path: str,
    how: str,
) -> None:
    import re

    breaking, said = BROKEN[how]
    breaking(governed.root / path)
    report = asked(governed)
    assert report.exit_code == 1
    assert [line for line in told(report) if path in line and re.search(said, line)], told(report)
    monkeypatch.chdir(governed.root)
    try:
        for verb, codes in (
            (["governance", "check"], {1}),
            (["governance", "lock"], {0, 2}),
            (["promote", "--reason", "x"], {1}),
        ):
            assert _run(verb) in codes
            printed = capsys.readouterr()
            assert "Traceback" not in printed.out + printed.err
            assert "unforeseen" not in printed.out + printed.err
    finally:
        context.choose(root=None, debug=False)
    assert not (governed.control / PROPOSAL).exists()


def test_a_second_document_is_no_part_of_the_first(governed: Governed) -> None:
    governed.write(
        "governance/tco.yaml", (governed.root / "governance/tco.yaml").read_text() + "---\ncurrency: USD\n"
    )
    assert [line for line in told(asked(governed)) if "a second document begins" in line]


def test_yes_and_no_stay_words(governed: Governed) -> None:
    governed.edit("governance/tco.yaml", "currency: EUR", "currency: no")
    governed.settle()
    assert asked(governed).exit_code == 0
    governed.change("tco", lambda values: values.update(pilot_cost="yes"))
    assert [line for line in told(asked(governed)) if "a number is wanted, not 'yes'" in line]


def test_a_byte_order_mark_and_windows_line_ends_are_no_mistake(governed: Governed) -> None:
    for path in ("governance/tco.yaml", "docs/runbook.md"):
        file = governed.root / path
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    governed.settle()
    assert asked(governed).missing == ()


@pytest.mark.parametrize("amount", ["1e9999999", "nan", "inf", "-5", "9" * 5000])
def test_figures_that_are_none_refuse(governed: Governed, amount: str) -> None:
    governed.change("tco", lambda values: values["production"]["lines"][0].update(cost=amount))
    assert [line for line in told(asked(governed)) if "governance/tco.yaml" in line]


# ---------------------------------------------------------------- what does not apply
@pytest.mark.parametrize("part", ["impact", "oversight"])
def test_at_high_risk_nothing_essential_is_excused(governed: Governed, part: str) -> None:
    excuse = {"not_applicable": {"reason": "nobody is concerned", "approver": "risk"}}
    governed.change("system", lambda values: values.update({part: excuse}))
    governed.settle()
    assert not [line for line in told(asked(governed)) if "always applies" in line]
    text = governed.tiny.toml.read_text()
    import re

    governed.tiny.toml.write_text(re.sub(r'risk_tier = "\w+"', 'risk_tier = "high"', text))
    governed.settle()
    assert [line for line in told(asked(governed)) if f"{part}: at high risk it always applies" in line]


def test_an_excuse_that_nobody_agreed_to_is_none(governed: Governed) -> None:
    excuse = {"not_applicable": {"reason": "nobody is concerned", "approver": "janitor"}}
    governed.change("system", lambda values: values.update(impact=excuse))
    governed.settle()
    assert [line for line in told(asked(governed)) if "nobody holds the role 'janitor'" in line]


# ---------------------------------------------------------------- git
@pytest.mark.parametrize("how", ["--assume-unchanged", "--skip-worktree"])
def test_code_that_git_was_told_to_overlook_refuses(governed: Governed, how: str) -> None:
    git(governed.root, "update-index", how, "src/dryfield/model.py")
    governed.edit("src/dryfield/model.py", "hook = None", "hook = 3")
    assert git(governed.root, "status", "--porcelain") == ""
    [line] = told(asked(governed))
    assert "git was told to overlook changes of src/dryfield/model.py" in line


def test_an_index_that_git_cannot_read_is_inconclusive(governed: Governed) -> None:
    (governed.root / ".git" / "index").write_bytes(b"nothing")
    governed.edit("src/dryfield/model.py", "hook = None", "hook = 3")
    report = asked(governed)
    assert report.exit_code == 3
    assert [line for line in told(report) if "git does not say" in line]
    with pytest.raises(PilotError, match="git does not say what was committed"):
        lock.write(governed.root)


def test_without_git_nothing_passes_and_nothing_is_locked(
    governed: Governed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    report = asked(governed)
    assert report.exit_code == 3
    assert [line for line in told(report) if "git is not installed. Install git." in line]
    with pytest.raises(PilotError, match="Install git, make the pilot a repository"):
        lock.write(governed.root)


def test_outside_a_repository_nothing_passes_and_nothing_is_locked(governed: Governed) -> None:
    (governed.root / ".git").rename(governed.root.parent / "git")
    report = asked(governed)
    assert report.exit_code == 3
    assert [line for line in told(report) if "git does not say. Make it a repository, and commit" in line]
    with pytest.raises(PilotError, match="git does not say what was committed"):
        lock.write(governed.root)


# ---------------------------------------------------------------- evidence
@pytest.mark.parametrize("name", [layout.METRICS, layout.QUALITY, layout.RUN])
@pytest.mark.parametrize("content", [None, "", "[]", "null", '{"model": 3}', "[" * 50_000, "\x00\xff"])
def test_evidence_that_is_missing_or_none_never_passes(
    governed: Governed, name: Path, content: str | None
) -> None:
    file = governed.root / name
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content.encode("latin-1"))
    governed.lock_data() if content is not None else None
    governed.commit()
    assert asked(governed).exit_code in (1, 3)
    told(asked(governed))
    with contextlib.suppress(PilotError):
        lock.write(governed.root)
    assert asked(governed).exit_code in (1, 3)


@pytest.mark.parametrize("share", ["NaN", "-1", "true", "Infinity"])
def test_a_share_that_is_none_is_too_many(governed: Governed, share: str) -> None:
    governed.write(layout.QUALITY.as_posix(), f'{{"rows": 100, "bad": 0, "bad_share": {share}}}')
    governed.lock_data()
    governed.settle()
    assert [line for line in told(asked(governed)) if "data.quality" in line]


# ---------------------------------------------------------------- signatures
@pytest.mark.parametrize(
    "holder",
    ["Theo  Trainer", "theo trainer <t@example.org>", "T. (Trainer@example.org)", "TRAINER@EXAMPLE.ORG"],
)
def test_a_trainer_written_otherwise_is_the_trainer(governed: Governed, holder: str) -> None:
    governed.change("owners", lambda values: values["roles"].update(risk=holder))
    governed.settle()
    assert [line for line in told(asked(governed)) if "trained the model and signed for it" in line]


def test_a_review_that_is_due_refuses_whatever_was_signed(governed: Governed) -> None:
    for name in ("system", "risks", "monitoring", "rollout"):
        governed.change(name, lambda values: values.update(review_by=str(TODAY - timedelta(days=1))))
    governed.settle()
    found = [line for line in told(asked(governed)) if "the review was due on" in line]
    assert [line.split()[0] for line in found] == [
        f"{name}.reviewed" for name in ("system", "risks", "monitoring", "rollout")
    ]


# ---------------------------------------------------------------- control
def recorded(governed: Governed, revision: int) -> None:
    append(governed.control, actor="a test", action="offer", reason="a test", revision=revision)


def test_an_audit_that_lost_its_end_refuses(governed: Governed) -> None:
    state(governed, rev=3)
    for revision in (1, 2, 3):
        recorded(governed, revision)
    assert asked(governed).missing == ()
    file = governed.control / AUDIT
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-1]))
    assert [line for line in told(asked(governed)) if "control.audited" in line and "missing" in line]


@pytest.mark.parametrize("content", [b"{}\n", b"\xff\n", b"[1]\n", b"null\n", b'{"a": 1'])
def test_a_damaged_audit_refuses(governed: Governed, content: bytes) -> None:
    governed.control.mkdir()
    (governed.control / AUDIT).write_bytes(content)
    report = asked(governed)
    assert report.exit_code == 1
    assert [line for line in told(report) if "control.audited" in line]


def test_a_clock_that_was_set_back_refuses(governed: Governed) -> None:
    state(governed, rev=1)
    recorded(governed, 1)
    report = asked(governed, now=datetime.now(UTC) - timedelta(minutes=30))
    assert [line for line in told(report) if "Set this host's clock." in line]


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b'"x"', b"[" * 50_000, b"\xff"])
def test_a_stage_that_cannot_be_read_promotes_nobody(
    governed: Governed, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    governed.control.mkdir()
    (governed.control / STATE).write_bytes(content)
    monkeypatch.chdir(governed.root)
    try:
        for verb in ("readiness", "promote --reason x", "readiness --gate shadow"):
            assert _run(verb.split()) == 3
            printed = capsys.readouterr()
            assert "Traceback" not in printed.out + printed.err
    finally:
        context.choose(root=None, debug=False)
    assert not (governed.control / PROPOSAL).exists()


# ---------------------------------------------------------------- proposals
@pytest.fixture
def another(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def switch() -> None:
        monkeypatch.setattr("harness.control.identity.account", lambda: Actor("somebody else", 4711))

    return switch


def forged(governed: Governed, **changes: Any) -> None:
    """An edited proposal whose checksum was made to fit."""
    file = governed.control / PROPOSAL
    values = json.loads(file.read_bytes())
    values.pop("sha256")
    values |= changes
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"))
    values["sha256"] = hashlib.sha256(canonical.encode()).hexdigest()
    file.write_text(json.dumps(values))


@pytest.mark.parametrize(
    "changes",
    [
        {"percent": 100},
        {"model": "b" * 64},
        {"evidence": "c" * 64},
        {"target": "early"},
        {"target": "full", "percent": 100},
        {"revision": 1},
        {"gate": "d" * 64},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_a_forged_proposal_is_not_what_the_gate_said(
    governed: Governed, monkeypatch: pytest.MonkeyPatch, another: Callable[[], None], changes: dict[str, Any]
) -> None:
    monkeypatch.chdir(governed.root)
    try:
        assert _run(["promote", "--reason", "all is in place"]) == 0
        forged(governed, **changes)
        another()
        assert _run(["approve", "--reason", "fine"]) == 2
    finally:
        context.choose(root=None, debug=False)
    assert not (governed.control / STATE).exists()


def test_a_proposer_who_writes_another_account_into_it_is_found_out(
    governed: Governed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(governed.root)
    try:
        assert _run(["promote", "--reason", "all is in place"]) == 0
        forged(governed, proposer="somebody else", uid=os.getuid() + 1)
        assert _run(["approve", "--reason", "I agree with myself"]) == 2
    finally:
        context.choose(root=None, debug=False)
    assert not (governed.control / STATE).exists()


@pytest.mark.parametrize("content", [b"[]", b"null", b"3", b"", b"\xff", b"[" * 50_000, b"{}"])
def test_a_proposal_that_is_none_is_told(governed: Governed, content: bytes) -> None:
    governed.control.mkdir()
    (governed.control / PROPOSAL).write_bytes(content)
    with pytest.raises(PilotError, match="the proposal is damaged or was edited"):
        read_proposal(governed.control)


def proposed(folder: Path) -> Any:
    return propose(
        folder,
        target="shadow",
        revision=0,
        model="b" * 64,
        percent=0,
        evidence="c" * 64,
        gate="d" * 64,
        reason="a test",
    )


def test_of_two_approvals_one_counts(folder: Path, another: Callable[[], None]) -> None:
    proposal = proposed(folder)
    another()
    assert waiting(folder) == proposal
    assert approve(folder, proposal, flag_key="fields", reason="fine").rev == 1
    with pytest.raises(PilotError):
        approve(folder, proposal, flag_key="fields", reason="fine")


def test_of_two_approvals_at_once_one_counts(
    folder: Path, another: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second has looked before the first was through, and comes to the lock after it."""
    proposal = proposed(folder)
    another()
    approve(folder, proposal, flag_key="fields", reason="fine")
    monkeypatch.setattr("harness.control.proposals.waiting", lambda *_: proposal)
    with pytest.raises(PilotError, match="somebody approved it or proposed anew meanwhile"):
        approve(folder, proposal, flag_key="fields", reason="fine")


def test_a_stop_that_no_state_knows_of_refuses_an_approval(folder: Path, another: Callable[[], None]) -> None:
    proposal = proposed(folder)
    (folder / SENTINEL).touch()
    another()
    with pytest.raises(PilotError, match="the model was stopped or held meanwhile"):
        approve(folder, proposal, flag_key="fields", reason="fine")
    assert not (folder / STATE).exists()


def test_a_hold_refuses_an_approval(folder: Path, put: Any, another: Callable[[], None]) -> None:
    put(rev=1, held=True, challenger=Slot(digest="b" * 64, pct=100))
    proposal = propose(
        folder,
        target="shadow",
        revision=1,
        model="b" * 64,
        percent=0,
        evidence="c" * 64,
        gate="d" * 64,
        reason="a test",
    )
    another()
    with pytest.raises(PilotError, match="the model was stopped or held meanwhile"):
        approve(folder, proposal, flag_key="fields", reason="fine")


def test_what_the_model_on_trial_is_comes_from_the_run(governed: Governed) -> None:
    assert asked(governed).model == record.read(governed.root).model
