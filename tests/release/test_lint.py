"""The lint over earlier releases: each fault is planted in a copy of the template, and its message read."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from copier import run_update

from pilot_template.update import ownership
from release import lint, record, stored
from release.snapshot import Snapshot
from release.stored import Plan
from rendering import ROOT, render
from repositories import commit, git

Edit = tuple[str, str, str]
IDENTITY, STACK, CHECKS = "questions/identity.yml", "questions/stack.yml", "questions/checks.jinja"
NONE = '        "none of these": none\n'
CI = (STACK, "ci:\n    type: str\n    default: github", "runner:\n    type: str\n    default: {0}")
LOCAL = (STACK, NONE, NONE.replace(": none", ": local"))
FLAGS = [
    ("questions/computed.yml", f"ci == '{each}'", f"runner == '{each}'") for each in ("github", "gitlab")
]
PLAN = Plan(
    question="ci",
    version="8.0.0",
    successor="runner",
    answers={"github": "github", "gitlab": "gitlab", "none": "local"},
)


def edit(folder: Path, *edits: Edit) -> None:
    for name, old, new in edits:
        text = (folder / name).read_text(encoding="utf-8")
        assert old in text, (name, old)
        (folder / name).write_text(text.replace(old, new, 1), encoding="utf-8")


def said(releases: Sequence[Snapshot], now: Snapshot, *plans: Plan) -> list[str]:
    by_question = {each.question: each for each in plans}
    return lint.findings(releases, now, by_question, stored.examples(ROOT))


@pytest.fixture
def without_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rendering takes most of the time, and tells nothing of questions."""
    for name in ("paths", "standards"):
        monkeypatch.setattr(Snapshot, name, frozenset())


def listed(name: str, line: str) -> Edit:
    return (name, "        {% endif %}", f"        {line}\n        {{% endif %}}")


def test_this_version_takes_nothing_from_any_release(whole_history: None) -> None:
    assert record.all_findings(ROOT) == []


QUESTIONS = {
    "question without a default": (
        [(IDENTITY, "team:\n", "budget:\n    type: str\n    help: How much?\n\nteam:\n")],
        "budget: 7.0.0 had no need of an answer, and there is no default.",
    ),
    "default taken away": (
        [(IDENTITY, "    default: Late payment\n", "")],
        "pilot_name: 7.0.0 had no need of an answer, and there is no default.",
    ),
    "choice removed": (
        [("questions/governance.yml", "        - restricted\n", "")],
        "data_classification: 7.0.0 offered restricted, which is no choice any more.",
    ),
    "choice refused by a validator": (
        [(STACK, NONE, NONE + "    validator: \"{% if ci == 'none' %}Write no.{% endif %}\"\n")],
        "ci: 7.0.0 accepted 'none', which is refused now (Write no.)",
    ),
    "type changed": (
        [
            (
                STACK,
                'python_version:\n    type: str\n    default: "3.11"',
                "python_version:\n    type: float\n    default: 3.11",
            )
        ],
        "python_version: its type was str in 7.0.0 and is float.",
    ),
    "shorter": (
        [(IDENTITY, "text(pilot_name, 80)", "text(pilot_name, 60)")],
        "pilot_name: 7.0.0 accepted 'Late paaaaa",
    ),
    "a character less": (
        [(CHECKS, "\\\\x7f-\\\\x9f", "\\\\x7f-\\\\xe9")],
        "was refused",
    ),
    "a form less": (
        [(CHECKS, "|#[^\\\\s#]+|", "|")],
        "owner: 7.0.0 accepted '#pilots', which is refused now (It is no contact.",
    ),
    "a form less for alerts": (
        [(CHECKS, "[a-z][a-z0-9+.-]*://", "mailtos://")],
        "alerts: 7.0.0 accepted 'slack://?a=b&c=d', which is refused now",
    ),
    "a name is taken, of pilots that have it too": (
        [
            ("questions/taken.txt", "abc\n", "abc\nchurn2\n"),
            (CHECKS, "not stored and answer in", "answer in"),
        ],
        "package_name: 7.0.0 accepted 'churn2', which is refused now (Python or a library",
    ),
    "question removed": (
        [(IDENTITY, "purpose:\n", "purpose_of_it:\n"), (IDENTITY, "text(purpose,", "text(purpose_of_it,")],
        "purpose: 7.0.0 asked it, and it is gone. Write in questions/plans.yaml",
    ),
}


@pytest.mark.usefixtures("without_paths")
@pytest.mark.parametrize(("edits", "message"), QUESTIONS.values(), ids=QUESTIONS)
def test_a_question_that_would_lose_an_answer_is_found(
    latest: Snapshot, now: Snapshot, edits: list[Edit], message: str
) -> None:
    edit(now.folder, *edits)
    found = said([latest], now)
    if message == "was refused":  # every free text, each with a character of the lint's own making
        assert len(found) >= 6
        assert all("accepted" in line and "which is refused now" in line for line in found)
    else:
        (line,) = [line for line in found if line.startswith(message.partition(":")[0] + ":")]
        assert line.startswith(message)


FINE = {
    "nothing": [],
    "a question with a default": [
        (IDENTITY, "team:\n", "budget:\n    type: str\n    default: x\n    help: How much?\n\nteam:\n")
    ],
    "a choice more": [
        ("questions/governance.yml", "        - restricted\n", "        - restricted\n        - secret\n")
    ],
    "longer": [(IDENTITY, "text(pilot_name, 80)", "text(pilot_name, 90)")],
    "a name is taken, of new pilots": [("questions/taken.txt", "abc\n", "abc\nchurn2\n")],
    "another default": [(IDENTITY, "default: TODO", "default: Ours")],
}


@pytest.mark.usefixtures("without_paths")
@pytest.mark.parametrize("edits", FINE.values(), ids=FINE)
def test_what_takes_nothing_away_is_fine(latest: Snapshot, now: Snapshot, edits: list[Edit]) -> None:
    edit(now.folder, *edits)
    assert said([latest], now) == []


@pytest.mark.usefixtures("without_paths")
def test_a_changed_validator_without_an_example_is_no_pass(latest: Snapshot, now: Snapshot) -> None:
    edit(now.folder, (IDENTITY, "text(team, 80)", "text(team, 20)"))
    kept = {name: answers for name, answers in stored.examples(ROOT).items() if name != "team"}
    found = lint.findings([latest], now, {}, kept)
    assert [
        line
        for line in found
        if "there is no example of an answer. Add some to questions/stored.yaml." in line
    ]


MAPPED = "\"{{ {'none': 'local'}.get(ci, ci) if ci is defined else 'github' }}\""
PLANS = {
    "a plan that works": (MAPPED, PLAN, None),
    "a default that carries nothing over": (
        "github",
        PLAN,
        "questions/plans.yaml: ci: a stored 'gitlab' becomes 'github' and not 'gitlab'. Mend the "
        "default of runner",
    ),
    "a default that the new question refuses": (
        "\"{{ ci | default('github') }}\"",
        PLAN,
        "questions/plans.yaml: ci: a stored 'none' becomes 'none', which runner refuses (none is "
        "not among the choices)",
    ),
    "a choice that the plan leaves out": (
        MAPPED,
        PLAN.model_copy(update={"answers": {"github": "github"}}),
        "questions/plans.yaml: ci: 7.0.0 offered gitlab, of which the plan says nothing.",
    ),
    "an answer that never was": (
        MAPPED,
        PLAN.model_copy(update={"answers": {**PLAN.answers, "jenkins": "jenkins"}}),
        "questions/plans.yaml: ci: 7.0.0 never accepted 'jenkins'",
    ),
    "a successor that is not asked": (
        MAPPED,
        PLAN.model_copy(update={"successor": "nobody"}),
        "questions/plans.yaml: ci: nobody is not asked.",
    ),
    "a version that still asked": (
        MAPPED,
        PLAN.model_copy(update={"version": "7.0.0"}),
        "questions/plans.yaml: ci: 7.0.0 still asked it",
    ),
    "a plan for nothing": (
        MAPPED,
        PLAN.model_copy(update={"question": "ciao"}),
        "questions/plans.yaml: ciao: no release asked it.",
    ),
}


@pytest.mark.usefixtures("without_paths")
@pytest.mark.parametrize(("default", "plan", "message"), PLANS.values(), ids=PLANS)
def test_a_plan_is_proven(
    latest: Snapshot,
    now: Snapshot,
    default: str,
    plan: Plan,
    message: str | None,
) -> None:
    edit(now.folder, (CI[0], CI[1], CI[2].replace("{0}", default)), LOCAL, *FLAGS)
    found = said([latest], now, plan)
    assert found == [] if message is None else any(line.startswith(message) for line in found), found


def test_a_plan_for_what_is_still_asked_is_none(latest: Snapshot) -> None:
    found = list(lint._plans([latest], latest, {"ci": PLAN}))
    assert found[0] == (
        "questions/plans.yaml: ci: it is still asked, so Copier would refuse the stored answer. "
        "Ask under another name."
    )


def test_copier_carries_an_answer_over_as_the_plan_says(
    latest: Snapshot, now: Snapshot, tmp_path: Path
) -> None:
    template = Path(shutil.copytree(latest.folder, tmp_path / "template"))
    git(template, "init", "--quiet", "--initial-branch=main")
    commit(template, "First", "v7.0.0")
    pilot = render(template, tmp_path / "pilot", {"ci": "none"})
    git(pilot, "init", "--quiet", "--initial-branch=main")
    commit(pilot, "Start from pilot-template")
    edit(template, (CI[0], CI[1], CI[2].replace("{0}", MAPPED)), LOCAL, *FLAGS)
    commit(template, "Second", "v8.0.0")
    run_update(pilot, defaults=True, overwrite=True, quiet=True, unsafe=False)
    answers = yaml.safe_load((pilot / ".copier-answers.yml").read_text(encoding="utf-8"))
    assert (answers["_commit"], answers["runner"], "ci" in answers) == ("v8.0.0", "local", False)


PATHS = {
    "seed line removed": (
        [(ownership.SEED, "        /params.yaml\n", "")],
        [],
        [
            "ownership/seed.yml: /params.yaml stood there in 7.0.0 and is gone. Put it back: "
            "teams have files there.",
            "params.yaml: 7.0.0 left it to the teams, and an update would replace it now. Give "
            "the standard's another name.",
        ],
    ),
    "seed turned standard": (
        [listed(ownership.SEED, "!/docs/runbook.md")],
        [],
        [
            "docs/runbook.md: 7.0.0 left it to the teams, and an update would replace it now. "
            "Give the standard's another name."
        ],
    ),
    "dropped and not retired": (
        [],
        ["Makefile"],
        [
            "Makefile: 7.0.0 wrote it, and nothing does now. Add /Makefile to "
            "ownership/retired.yml, or teams lose their edits."
        ],
    ),
    "dropped and retired": ([listed(ownership.RETIRED, "/Makefile")], ["Makefile"], []),
    "a seed dropped": ([], ["docs/runbook.md.jinja"], []),
    "retired and there": (
        [listed(ownership.RETIRED, "/Makefile")],
        [],
        [
            "Makefile: it is rendered, and ownership/retired.yml says that nothing writes it. "
            "Give the new file another name."
        ],
    ),
    "retired and never there": (
        [listed(ownership.RETIRED, "/Makefiel")],
        [],
        [
            "ownership/retired.yml: /Makefiel was in no release. Correct it, or take it out "
            "before it is released."
        ],
    ),
}


@pytest.mark.parametrize(("edits", "gone", "messages"), PATHS.values(), ids=PATHS)
def test_a_path_that_changes_its_meaning_is_found(
    latest: Snapshot, now: Snapshot, edits: list[Edit], gone: list[str], messages: list[str]
) -> None:
    edit(now.folder, *edits)
    for name in gone:
        (now.folder / "template" / name).unlink()
    assert said([latest], now) == messages


def test_a_retired_line_stays(latest: Snapshot, now: Snapshot, tmp_path: Path) -> None:
    release = Snapshot("8.0.0", Path(shutil.copytree(latest.folder, tmp_path / "release")))
    edit(release.folder, listed(ownership.RETIRED, "/Makefile"))
    (release.folder / "template" / "Makefile").unlink()
    (now.folder / "template" / "Makefile").unlink()
    assert (
        "ownership/retired.yml: /Makefile stood there in 8.0.0 and is gone. Put it back: teams "
        "have files there." in said([latest, release], now)
    )


@pytest.mark.parametrize("line", ["/docs/new.md", "/later.cfg"])
def test_a_path_that_was_dropped_is_not_taken_up_again(
    latest: Snapshot, now: Snapshot, tmp_path: Path, line: str
) -> None:
    """The team's or the standard's."""
    release = Snapshot("6.0.0", Path(shutil.copytree(latest.folder, tmp_path / "release")))
    for folder in (release.folder, now.folder):
        (folder / "template" / line.strip("/")).write_text("x\n", encoding="utf-8")
    assert said([release, latest], now) == [
        f"{line.strip('/')}: 7.0.0 had dropped it, and it is taken up again. Give what is new another name."
    ]
    assert said([release], now) == []


def test_paths_that_only_another_answer_gives_are_known(latest: Snapshot, first: Snapshot) -> None:
    for release in (latest, first):
        assert {".gitlab-ci.yml", ".github/workflows/pilot.yml"} <= release.standards
        assert "src/<package>/model.py" in release.paths - release.standards
