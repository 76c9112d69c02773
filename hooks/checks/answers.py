"""PT102."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from pilot_template.hooks.result import Finding
from pilot_template.hooks.tree import Tree

ANSWERS = ".copier-answers.yml"
HOOKS = ".pre-commit-config.yaml"
BACK = f"Bring it back: `git checkout HEAD -- {ANSWERS}`. An answer is changed by `copier update` alone."
# A commit, a release, or a commit counted from one, as `git describe --tags --always` writes them.
VERSION = re.compile(
    r"[0-9a-f]{7,64}|v?\d+(\.\d+)*([-.]?(a|b|rc|alpha|beta|dev|post)[-.]?\d*)*(-\d+-g[0-9a-f]{7,64})?",
    re.IGNORECASE,
)
# What Copier takes and an update still finds from another folder.
SOURCE = re.compile(r"(gh:|gl:|git\+\w+://|git://|https?://|ssh://|[\w.-]+@[\w.-]+:|/|~/)\S.*")


def answers_file(tree: Tree) -> Iterator[Finding]:
    """The answers file says which version of which template the pilot came from.

    Without it no update finds its way, and a version that was written by hand makes a pilot look up to date
    that is not. That the files are of that version is what PT101 holds.
    """
    text = tree.text(ANSWERS)
    if text is None:
        yield Finding(ANSWERS, "the file is missing", BACK)
        return
    try:
        answers = yaml.load(text, Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        yield Finding(ANSWERS, "it is not YAML", BACK, line=mark.line + 1 if mark else 0)
        return
    if not isinstance(answers, dict):
        yield Finding(ANSWERS, "it holds no answers", BACK)
        return
    version, source = answers.get("_commit"), answers.get("_src_path")
    if not version:
        mend = "Render the pilot from the template's git repository: an update starts from a version."
        yield Finding(ANSWERS, "_commit is missing, the version of the template", mend)
    elif not isinstance(version, str) or not VERSION.fullmatch(version):
        yield Finding(ANSWERS, f"_commit is no version: {version!r}", BACK, line=_line(text, "_commit"))
    else:
        yield from _hooks(tree, version)
    if not isinstance(source, str) or not source:
        yield Finding(ANSWERS, "_src_path is missing, the address of the template", BACK)
    elif not SOURCE.fullmatch(source):
        mend = "Write an absolute path or an address there: an update looks for it from another folder."
        what = f"_src_path is neither an address nor an absolute path: {source!r}"
        yield Finding(ANSWERS, what, mend, line=_line(text, "_src_path"))


def _hooks(tree: Tree, version: str) -> Iterator[Finding]:
    """The hooks were rendered with the same version."""
    text = tree.text(HOOKS) or ""
    for rev in _revs(text):
        if rev != version:
            what = f"the hooks are of version {rev}, and the answers file says {version}"
            mend = f"One of the two was edited by hand: see `git log -p -- {ANSWERS} {HOOKS}`."
            yield Finding(HOOKS, what, mend, line=_line(text, "    rev"))


def _revs(text: str) -> list[str]:
    try:
        config: Any = yaml.load(text, Loader=yaml.BaseLoader)
        repositories = config["repos"]
        return [str(each["rev"]) for each in repositories if each.get("repo") not in ("local", "meta")][:1]
    except (yaml.YAMLError, LookupError, TypeError, AttributeError):
        return []  # pre-commit says what is wrong with its own file


def _line(text: str, start: str) -> int:
    lines = text.splitlines()
    return next((number for number, line in enumerate(lines, start=1) if line.startswith(start)), 0)
