"""The template as it was in a release, or as it is now: its questions, its lists, the paths it renders."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from copier import run_copy
from copier._template import load_template_config
from jinja2 import FileSystemLoader, StrictUndefined, Template
from jinja2.sandbox import SandboxedEnvironment

from pilot_template.update import ownership

# What decides about questions and paths. The harness is left out: no Jinja is in it, the whole folder is the
# standard's, and rendering it takes most of the time.
PARTS = ("copier.yml", "questions", "ownership", "template", ":(exclude)template/harness")
PACKAGE = "the_package"


@dataclass(frozen=True)
class Snapshot:
    """One version of the template, in a folder without git.

    Attributes:
        name: The version, or what else it is, as messages call it.
        folder: Where it lies.
    """

    name: str
    folder: Path

    @cached_property
    def questions(self) -> dict[str, dict[str, Any]]:
        """What is asked, and stored in a pilot: each question as ``copier.yml`` has it."""
        read = load_template_config(self.folder / "copier.yml")
        return {
            name: details if isinstance(details, dict) else {"default": details}
            for name, details in read.items()
            if not name.startswith("_") and not (isinstance(details, dict) and details.get("when") is False)
        }

    def choices(self, question: str) -> list[Any]:
        """The answers that may be chosen; none for a free text."""
        choices = self.questions[question].get("choices") or []
        return list(choices.values() if isinstance(choices, dict) else choices)

    @cached_property
    def ownership(self) -> ownership.Ownership:
        """The three lists."""
        return ownership.in_folder(self.folder)

    @cached_property
    def paths(self) -> frozenset[str]:
        """Every path outside the harness that some answer gives; the package is called ``<package>``."""
        found: set[str] = set()
        with TemporaryDirectory() as scratch:
            for number, answers in enumerate(self._answers()):
                pilot = Path(scratch, str(number))
                data = {"package_name": PACKAGE, **answers}
                run_copy(str(self.folder), pilot, data=data, defaults=True, quiet=True, unsafe=False)
                found |= {
                    file.relative_to(pilot).as_posix().replace(PACKAGE, "<package>")
                    for file in pilot.rglob("*")
                    if file.is_file()
                }
        return frozenset(found)

    def _answers(self) -> Iterator[dict[str, Any]]:
        """The default answers, and beside them each choice of a question that a path names."""
        yield {}
        everything = load_template_config(self.folder / "copier.yml")
        computed = [
            details for details in everything.values() if isinstance(details, dict) and "when" in details
        ]
        named = " ".join(path.as_posix() for path in self.folder.joinpath("template").rglob("*"))
        named += str([computed, everything["_exclude"]])
        for name, question in self.questions.items():
            for choice in self.choices(name) if name in named else ():
                if choice != question.get("default"):
                    yield {name: choice}

    @cached_property
    def standards(self) -> frozenset[str]:
        """The rendered paths that an update replaces."""
        owned = self.ownership
        return self.paths - owned.seed.matched(set(self.paths)) - owned.retired.matched(set(self.paths))

    @cached_property
    def support(self) -> dict[str, bytes]:
        """The files that validators read."""
        folder = self.folder / "questions"
        return {
            file.name: file.read_bytes() for file in folder.iterdir() if file.suffix in (".jinja", ".txt")
        }

    @cached_property
    def _jinja(self) -> SandboxedEnvironment:
        extensions = ["jinja2_ansible_filters.AnsibleCoreFiltersExtension"]
        loader = FileSystemLoader(self.folder)
        return SandboxedEnvironment(loader=loader, extensions=extensions, undefined=StrictUndefined)

    def refusal(self, question: str, answer: Any) -> str:
        """What the question says to an answer that a pilot has stored; nothing when it accepts it."""
        if (choices := self.choices(question)) and answer not in choices:
            return f"{answer} is not among the choices"
        return str(self._render(self.questions[question].get("validator", ""), {question: answer})).strip()

    def default(self, question: str, stored: Mapping[str, Any]) -> Any:
        """What a pilot that has stored these answers, and none to this question, gets."""
        return self._render(self.questions[question].get("default"), stored)

    def _render(self, text: Any, answers: Mapping[str, Any]) -> Any:
        # As Copier's update has it: docs/decisions/0016-releases.md.
        context = {"_copier_conf": {"overwrite": True, "data": {}}, "_copier_answers": answers}
        return self._compiled(text).render(context | dict(answers)) if isinstance(text, str) else text

    @cached_property
    def _compiled(self) -> Callable[[str], Template]:
        return cache(self._jinja.from_string)


def at_commit(repository: Path, commit: str, name: str, folder: Path) -> Snapshot:
    """The template as a commit has it, written into an empty folder."""
    archive = subprocess.run(
        ["git", "archive", commit, *PARTS], cwd=repository, capture_output=True, check=True
    )
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as packed:
        packed.extractall(folder, filter="data")
    return Snapshot(name, folder)


def in_work_tree(repository: Path, folder: Path, name: str = "this version") -> Snapshot:
    """The template as it lies there, committed or not, written into an empty folder."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *PARTS],
        cwd=repository,
        capture_output=True,
        check=True,
    )
    for path in filter(None, listed.stdout.decode().split("\0")):
        if (repository / path).is_file():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes((repository / path).read_bytes())
    return Snapshot(name, folder)
