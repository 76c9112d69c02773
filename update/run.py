"""An update from beginning to end."""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harness.errors import PilotError
from harness.progress import Report as Progress
from pilot_template.update import pilot, template, trial, worktree
from pilot_template.update.address import address
from pilot_template.update.carry import carry_out, content_given, content_of
from pilot_template.update.decide import Change, Kind, decide
from pilot_template.update.notes import Notes, NotesError, between, version_of
from pilot_template.update.ownership import Ownership
from pilot_template.update.pilot import ANSWERS, Pilot
from pilot_template.update.report import Report
from pilot_template.update.settings import Setting, new_settings
from pilot_template.update.template import Rendered, Template, hash_of
from pilot_template.update.tree import Tree, read

# Files of the team's that the standard reads settings from.
READ = re.compile(r"pilot\.toml|governance/[^/]+\.yaml")
DOCUMENT = re.compile(r"governance/[^/]+\.yaml")
STILL_TODO = re.compile(r"\bTODO\b")


@dataclass(frozen=True)
class Wish:
    """What is wanted.

    Attributes:
        root: The pilot's folder.
        to: The version to update to.
        clone: A clone of the template that has it; None to make one.
        dry: Keep nothing.
        apply: Merge the branch into the checkout.
        tests: Run the pilot's fast tests on it.
    """

    root: Path
    to: str
    clone: Path | None = None
    dry: bool = False
    apply: bool = False
    tests: bool = True


def update(wish: Wish, progress: Progress = lambda _doing, _share: None) -> Report:
    """Update a pilot on a branch of its own.

    Raises:
        PilotError: It cannot be; nothing has changed then.
    """
    found = pilot.find(wish.root.resolve())
    with tempfile.TemporaryDirectory(prefix=f"{worktree.PREFIX}{os.getpid()}-") as name:
        folder = Path(name).resolve()
        folder.chmod(0o755)  # tests may start servers that run as an account of their own
        progress("looking at the template", 0.0)
        source = _template(found, wish, folder)
        old = template.described(source, found)
        new = source.commit(wish.to)
        before, after = source.name(old), source.name(new)
        if old == new:
            return Report(before, after)
        if source.is_older(new, than=old):
            what = f"the pilot is of {before}, and {after} is no later version"
            mend = "An update goes forward only. To go back, revert its commit."
            raise PilotError(what, where=ANSWERS, mend=mend)
        worktree.branch_is_free(found, after)
        return _Update(found, wish, folder, source, before, after).run(_ref(wish, source, after), progress)


def _template(found: Pilot, wish: Wish, folder: Path) -> Template:
    if wish.clone is not None:
        return Template(wish.clone.resolve(), found.source)
    return template.clone(found.source, address(found.source), folder / "template")


def _ref(wish: Wish, source: Template, after: str) -> str:
    """What Copier is to check out: a release by its name, so that the answers file names it."""
    return after if after in template.tags_of(source) else source.commit(wish.to)


@dataclass
class _Update:
    """The steps of one update, and what they share."""

    pilot: Pilot
    wish: Wish
    folder: Path
    source: Template
    before: str
    after: str

    def run(self, ref: str, progress: Progress) -> Report:
        report = Report(self.before, self.after, dry=self.wish.dry)
        progress(f"rendering {self.before}", 0.1)
        given = template.render(self.source, self.pilot.version, self.pilot.answers, self._place("given"))
        progress(f"rendering {self.after}", 0.3)
        gives = template.render(self.source, ref, self.pilot.answers, self._place("gives"))
        self._compare_answers(report, gives)
        owner = template.owners(self.source, self.source.commit(self.wish.to))
        progress("updating", 0.5)
        tree = read(self.pilot)
        _no_detours(tree, given, owner)
        there = content_of(tree, sorted({*given.files, *gives.files}))
        changes = list(decide(content_given(given), there, content_given(gives), owner))
        report.settings = self._settings(tree, given, gives, owner)
        report.done = [carry_out(each, tree, given, gives) for each in _in_order(changes)]
        _lose_nothing(tree, given, report, owner)
        report.todo = _todo(tree, report, owner)
        report.trouble = _trouble(tree)
        report.notes = _notes(self.before, self.after)
        report.in_the_way = _in_the_way(self.pilot, tree)
        made = worktree.commit(self.pilot, tree.write(self.folder / "tree"), self._message())
        if not self.wish.dry:
            self._keep(report, made, progress)
        return report

    def _keep(self, report: Report, made: str, progress: Progress) -> None:
        """Try the update, give it its branch, and merge that where it is wanted."""
        if self.wish.tests:
            progress("trying it: make setup test-fast (minutes)", 0.6)
            with worktree.work_tree(self.pilot, made, self.folder / "work") as root:
                report.tests = trial.try_out(root, self.folder / "tests.log")
        where = self.folder / "gives", self.folder / "index"
        fresh = worktree.fresh_copy(self.pilot, self.after, *where)
        worktree.publish(self.pilot, self.after, made, fresh)
        report.branch = worktree.branch_of(self.pilot, self.after)
        report.pristine = worktree.pristine_of(self.pilot, self.after)
        if self.wish.apply and not report.needs_somebody:
            report.not_applied = worktree.apply(self.pilot, report.branch)
            report.applied = not report.not_applied

    def _place(self, name: str) -> Path:
        return self.folder / name / self.pilot.prefix

    def _message(self) -> str:
        return f"Update pilot-template from {self.before} to {self.after}\n"

    def _compare_answers(self, report: Report, gives: Rendered) -> None:
        earlier = _of_people(self.pilot.answers)
        later = _of_people(yaml.safe_load(gives.content(ANSWERS)))
        report.asked = {name: value for name, value in later.items() if name not in earlier}
        report.unasked = {name: value for name, value in earlier.items() if name not in later}
        both = earlier.keys() & later.keys()
        report.changed = {
            name: (earlier[name], later[name]) for name in sorted(both) if earlier[name] != later[name]
        }

    def _settings(self, tree: Tree, given: Rendered, gives: Rendered, owner: Ownership) -> list[Setting]:
        found: list[Setting] = []
        for name in sorted(gives.files):
            if name in owner.seed and READ.fullmatch(name) and name in given.files and name in tree.entries:
                sides = (given.content(name), tree.content(name), gives.content(name))
                found += new_settings(name, *sides)
        return found


def _in_order(changes: list[Change]) -> list[Change]:
    """What goes makes room for what comes."""
    return sorted(changes, key=lambda each: each.kind not in (Kind.REMOVED, Kind.DROPPED))


def _lose_nothing(tree: Tree, given: Rendered, report: Report, owner: Ownership) -> None:
    """Hold what will be against what was: whatever the standard did not give is there, to the byte.

    It is there under its name, or beside it where the report says so; or its lines are in a merge.

    Raises:
        PilotError: It is not. This is a defect, and nothing has been kept.
    """
    told = {each.name: each for each in report.done}
    lost = []
    for name in sorted(tree.touched & tree.before.keys()):
        done = told.get(name)
        if not owner.is_teams(name) and done is not None:
            if done.merged or (done.beside and tree.entries.get(done.beside) == tree.before[name]):
                continue
            content = tree.before[name].blob and Tree(tree.pilot, tree.before).content(name)
            if name in given.files and hash_of(content or b"") == given.files[name][0]:
                continue
            if name == ANSWERS:
                continue
        lost.append(name)
    if lost:
        what = f"the update would have changed what is yours ({', '.join(lost)}), and was given up"
        mend = "A defect of the template: please report it. Nothing was changed."
        raise PilotError(what, where=str(tree.pilot.root), mend=mend)


def _trouble(tree: Tree) -> list[str]:
    """What is never a success, however it came there: markers of a conflict, rejected hunks."""
    new = sorted(name for name in tree.touched if name in tree.entries and not tree.entries[name].blob)
    return [name for name in new if name.endswith((".rej", ".orig")) or _marked(tree.content(name))]


def _marked(content: bytes) -> bool:
    marks = (b"<<<<<<< ", b">>>>>>> ", b"||||||| ")
    return any(line.startswith(marks) for line in content.split(b"\n"))


def _in_the_way(pilot: Pilot, tree: Tree) -> list[str]:
    """Files in the checkout that git does not have, where the update brings one: a merge could lose them."""
    new = sorted(tree.entries.keys() - tree.before.keys())
    return [name for name in new if os.path.lexists(pilot.root / name)]


def _of_people(answers: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answers.items() if not name.startswith("_")}


def _no_detours(tree: Tree, given: Rendered, owner: Ownership) -> None:
    """A folder of the standard's has to be one: what a link there leads to is nobody's to update.

    Raises:
        PilotError: It is a link or a file.
    """
    for name in given.files:
        obstacle = None if owner.is_teams(name) else tree.obstacle(name)
        if obstacle is not None and obstacle != name:
            what = "it is a link or a file, and the standard has a folder there"
            mend = f"Put the folder back, and commit that: `git log -- {obstacle}` shows since when."
            raise PilotError(what, where=obstacle, mend=mend)


def _todo(tree: Tree, report: Report, owner: Ownership) -> dict[str, int]:
    """What a person has still to say: in new files of the team's, and in the documents of governance."""
    seeded = [each.name for each in report.done if each.kind is Kind.SEEDED]
    documents = [name for name in sorted(tree.entries) if DOCUMENT.fullmatch(name)]
    found = {}
    for name in dict.fromkeys([*seeded, *documents]):
        if name in owner.seed and name in tree.entries:
            text = tree.content(name).decode("utf-8", "replace")
            lines = [line.partition("#")[0] for line in text.splitlines()]
            count = sum(bool(STILL_TODO.search(line)) for line in lines)
            if count:
                found[name] = count
    return found


def _notes(before: str, after: str) -> list[Notes]:
    """What the releases between the two say; nothing where the versions are bare commits."""
    try:
        version_of(after)
        start: str | None = before if version_of(before) else None
    except NotesError:
        return []
    return between(start, after)
