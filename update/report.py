"""What an update did and what is left to do, for people, for pull requests and for programs."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from pilot_template.update.carry import Done
from pilot_template.update.decide import Kind
from pilot_template.update.notes import Notes, what_teams_do
from pilot_template.update.settings import Setting

STANDARDS = (Kind.ADDED, Kind.CHANGED, Kind.REMOVED)
# A step of the store's schema is a file, so what a version brings is told by the files that it adds.
REVISION = re.compile(r"harness/src/harness/store/revisions/v(\d{4})_(\w+)\.py")


@dataclass(frozen=True)
class Trial:
    """How the pilot's fast tests went on the update.

    Attributes:
        passed: Whether they did; None where they were not run.
        command: What was run.
        tail: The last lines, where they failed.
    """

    passed: bool | None
    command: str = ""
    tail: tuple[str, ...] = ()


@dataclass
class Report:
    """An update.

    Attributes:
        before: The version that the pilot was of.
        after: The version that it is updated to.
        dry: Whether nothing was kept.
        branch: Where the update is; empty where there is none.
        pristine: By which name git knows a fresh copy of the new version.
        done: What became of each path.
        asked: New questions with the answer that was taken: the default.
        unasked: Questions that are no longer asked, with the pilot's answer.
        changed: Earlier answers that became others: old and new.
        settings: New settings, with the value that holds while the team writes nothing.
        todo: Files with values that are still TODO, and how many lines.
        trouble: What must never be called a success.
        notes: What each release between the two says that teams do.
        tests: The pilot's own fast tests.
        in_the_way: Files of the checkout that git does not have, where the update brings one.
        applied: Whether it was merged into the checkout.
        not_applied: Why it could not be, where that was wanted.
    """

    before: str
    after: str
    dry: bool = False
    branch: str = ""
    pristine: str = ""
    done: list[Done] = field(default_factory=list)
    asked: dict[str, Any] = field(default_factory=dict)
    unasked: dict[str, Any] = field(default_factory=dict)
    changed: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    settings: list[Setting] = field(default_factory=list)
    todo: dict[str, int] = field(default_factory=dict)
    trouble: list[str] = field(default_factory=list)
    notes: list[Notes] = field(default_factory=list)
    tests: Trial = field(default_factory=lambda: Trial(None))
    in_the_way: list[str] = field(default_factory=list)
    applied: bool = False
    not_applied: str = ""

    def of(self, *kinds: Kind) -> list[Done]:
        """What was done of these kinds."""
        return [each for each in self.done if each.kind in kinds]

    @property
    def migrations(self) -> list[str]:
        """What the store's schema becomes when the service is started anew: a number and a name a step."""
        found = (REVISION.fullmatch(each.name) for each in self.of(Kind.ADDED))
        return sorted(f"{step[1]} {step[2].replace('_', ' ')}" for step in found if step)

    @property
    def current(self) -> bool:
        """Whether there was nothing to update."""
        return self.before == self.after

    @property
    def needs_somebody(self) -> list[str]:
        """What a person has to decide before the branch is merged; one line each."""
        return list(_needs(self))

    @property
    def exit_code(self) -> int:
        """0 done, 1 done and somebody has to decide."""
        return 1 if self.needs_somebody else 0

    def as_json(self) -> dict[str, Any]:
        """The report for a program."""
        return {
            "before": self.before,
            "after": self.after,
            "up_to_date": self.current,
            "dry_run": self.dry,
            "branch": self.branch or None,
            "pristine": self.pristine or None,
            "applied": self.applied,
            "not_applied": self.not_applied or None,
            "in_the_way": self.in_the_way,
            "needs_somebody": self.needs_somebody,
            "files": [asdict(each) | {"kind": str(each.kind)} for each in self.done],
            "answers": {"new": self.asked, "gone": self.unasked, "changed": self.changed},
            "settings": [asdict(each) for each in self.settings],
            "migrations": self.migrations,
            "todo": self.todo,
            "trouble": self.trouble,
            "notes": [each.model_dump(mode="json") for each in self.notes],
            "tests": asdict(self.tests),
        }


def _needs(report: Report) -> Iterator[str]:
    back = f"git checkout {report.pristine or 'NAME'} -- "
    for name in report.trouble:
        yield f"{name}: it holds a conflict"
    for name, (old, new) in report.changed.items():
        yield f"the answer {name} became {new!r}; it was {old!r}"
    for each in report.done:
        if each.kind is Kind.MERGE and not each.merged:
            yield (
                f"{each.name}: you edited the standard's file where it has changed too. It is the standard's "
                f"now, and yours is {each.beside}. Bring what you need to where its first line says, and "
                f"delete {each.beside}"
            )
        elif each.kind is Kind.DROPPED:
            yield f"{each.name}: the standard has it no more, and you had edited it. Yours is {each.beside}"
        elif each.kind is Kind.COLLISION:
            yield (
                f"{each.name}: the standard has a file of that name now. Yours stays, and the standard's is "
                f"{each.beside}. Give yours another name and move the standard's there"
            )
        elif each.kind is Kind.DELETED:
            again = back + shlex.quote(each.name)
            yield f"{each.name}: you had deleted it, and it stays so. To have it again: {again}"
        elif each.beside:
            yield f"{each.name}: something was in its way. See {each.beside}"
    for name in report.in_the_way:
        yield f"{name}: it lies in your checkout and git does not have it. Move it away before you merge"
    if report.not_applied:
        yield report.not_applied
    if report.tests.passed is False:
        yield f"the pilot's fast tests failed on the update ({report.tests.command})"


def lines(report: Report) -> list[str]:
    """The report for a terminal, and for a pull request: it is Markdown that reads well as it is."""
    if report.current:
        return [f"The pilot is of {report.after}, and there is nothing newer."]
    parts = [f"# pilot-template {report.before} → {report.after}", "", _headline(report)]
    parts += _listed("For you to decide before it is merged", report.needs_somebody)
    for notes in report.notes:
        # Files and settings stand below, as they are in this very pilot.
        steps = notes.model_copy(update={"new_settings": (), "seeds": (), "retired": ()})
        title = f"## {notes.version or 'Not released yet'}: {notes.summary}"
        parts += ["", title, "", what_teams_do([steps]).rstrip()]
    parts += _listed("New settings, with what holds while you write nothing", _settings(report))
    parts += _listed(
        "What the store becomes with the next start of the service; it keeps a copy of SQLite's file",
        report.migrations,
    )
    parts += _listed("New files of yours", (f"`{each.name}`" for each in report.of(Kind.SEEDED)))
    kept = [f"`{each.name}`: {_how(each)}" for each in report.of(Kind.KEPT, Kind.MERGE) if not each.beside]
    parts += _listed("Files of the standard's that you edited", kept)
    parts += _listed(
        "Given up by the standard, yours now", (f"`{each.name}`" for each in report.of(Kind.RETIRED))
    )
    parts += _listed("New questions, answered with the default", _answers(report.asked))
    parts += _listed("No longer asked", _answers(report.unasked))
    parts += _listed("Still TODO", (f"`{name}`: {count}" for name, count in report.todo.items()))
    parts += _listed("Files of the standard's", _counted(report))
    parts += _tests(report.tests)
    return parts


def _headline(report: Report) -> str:
    if report.dry:
        return "Nothing was changed: this is what `pilot update` would do."
    if report.applied:
        return "It is merged into your checkout. Next: make setup && make test lint"
    next_step = f"git merge --no-overwrite-ignore {report.branch}"
    return f"It is on the branch {report.branch}; your checkout is as it was. Next: {next_step}"


def _listed(title: str, found: Any) -> list[str]:
    items = [f"- {each}" for each in found]
    return ["", f"## {title}", "", *items] if items else []


def _answers(answers: dict[str, Any]) -> Iterator[str]:
    for name, value in answers.items():
        yield f"`{name}`: `{json.dumps(value, ensure_ascii=False, default=str).replace('`', '')}`"


def _settings(report: Report) -> Iterator[str]:
    meanings = {(new.file, new.key): new.meaning for notes in report.notes for new in notes.new_settings}
    for each in report.settings:
        meaning = meanings.get((each.file, each.key))
        yield f"{each}: {meaning}" if meaning else str(each)


def _how(each: Done) -> str:
    if each.kind is Kind.KEPT:
        return "your edit stays; the standard has not changed there"
    return "your edit and the standard's are both in it now"


def _counted(report: Report) -> Iterator[str]:
    for kind in STANDARDS:
        found = report.of(kind)
        if found:
            elsewhere = [f"`{each.name}`" for each in found if not each.name.startswith("harness/")]
            more = f", of these outside harness/: {', '.join(elsewhere)}" if elsewhere else ""
            yield f"{len(found)} {kind}{more}"


def _tests(tests: Trial) -> list[str]:
    if tests.passed is None:
        return ["", "The pilot's tests were not run."]
    if tests.passed:
        return ["", f"The pilot's fast tests passed on it (`{tests.command}`)."]
    # Longer than any in the text: what tests print stays text in a pull request.
    fence = "`" * max([2, *map(len, re.findall("`+", "\n".join(tests.tail)))]) + "`"
    return ["", f"The pilot's fast tests FAILED on it (`{tests.command}`):", "", fence, *tests.tail, fence]
