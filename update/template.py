"""The template: a clone of it, its versions, and what it would give this pilot at one of them."""

from __future__ import annotations

import hashlib
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version

from harness.errors import PilotError
from pilot_template.hooks.manifest import MANIFEST
from pilot_template.update import ownership
from pilot_template.update.git import GitFailed, blob, git, says_yes
from pilot_template.update.ownership import Ownership
from pilot_template.update.pilot import ANSWERS, BACK, Pilot


@dataclass(frozen=True)
class Template:
    """A clone of the template.

    Attributes:
        clone: Its folder.
        source: The address that Copier keeps in the answers file, and takes.
    """

    clone: Path
    source: str

    def commit(self, version: str) -> str:
        """The commit that a version stands for: a tag with or without `v`, a hash, a branch.

        Raises:
            PilotError: The template has no such version.
        """
        for name in (version, f"v{version}", f"origin/{version}"):
            if says_yes(self.clone, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"):
                return git(self.clone, "rev-parse", f"{name}^{{commit}}")
        known = ", ".join(git(self.clone, "tag", "--list", "--sort=-version:refname").split()[:3])
        mend = f"Its newest are: {known}." if known else "It has no release; name a commit."
        raise PilotError(f"the template has no version {version!r}", where=self.source, mend=mend)

    def name(self, commit: str) -> str:
        """What a commit is called: the release that it is, else what Copier writes into the answers file."""
        release = newest(git(self.clone, "tag", "--points-at", commit).split())
        if release is not None:
            return release
        return git(self.clone, "describe", "--tags", "--always", commit)

    def is_older(self, commit: str, than: str) -> bool:
        """Whether a commit comes before another one, or beside it."""
        return not says_yes(self.clone, "merge-base", "--is-ancestor", than, commit)

    def manifest(self, commit: str) -> bytes | None:
        """The list of the standard's files at a commit; None where there was none yet."""
        try:
            return blob(self.clone, f"{commit}:template/{MANIFEST}")
        except GitFailed:
            return None


def clone(source: str, address: str, folder: Path) -> Template:
    """Clone the template.

    Raises:
        PilotError: It cannot be reached.
    """
    try:
        git(folder.parent, "clone", "--quiet", "--no-checkout", "--", address, str(folder))
    except GitFailed as error:
        mend = f"Check the network and your right to read it, or _src_path in {ANSWERS}."
        raise PilotError(f"the template cannot be reached: {error.what}", where=source, mend=mend) from error
    return Template(folder, source)


def described(template: Template, pilot: Pilot) -> str:
    """The commit that the pilot says it is of, once its list of the standard's files says so too.

    Raises:
        PilotError: The template has no such version, or the pilot's files are of another one: then an update
            would compare with what the pilot never was, and undo or keep the wrong things.
    """
    try:
        commit = template.commit(pilot.version)
    except PilotError as error:
        what = f"_commit is {pilot.version!r}, and the template at {pilot.source} has no such version"
        raise PilotError(what, where=ANSWERS, mend=BACK) from error
    held, given = pilot.blob(MANIFEST), template.manifest(commit)
    if _plain(held) == _plain(given):
        return commit
    true = next((name for name, text in _versions(template) if _plain(text) == _plain(held)), None)
    if true is not None:
        what = f"_commit says {pilot.version}, and {MANIFEST} is the one of {true}"
        raise PilotError(what, where=ANSWERS, mend=f"Write `_commit: {true}` there, and commit that.")
    what = f"it is not the list that {pilot.version} of the template gave"
    mend = f"Bring it back: `git log -- {MANIFEST}` shows who changed it."
    raise PilotError(what, where=MANIFEST, mend=mend)


def _plain(text: bytes | None) -> bytes | None:
    return None if text is None else text.replace(b"\r\n", b"\n").rstrip(b"\n")


def _versions(template: Template) -> list[tuple[str, bytes | None]]:
    """Each release with its list, the newest first."""
    tags = git(template.clone, "tag", "--list", "--sort=-creatordate").split()
    return [(tag, template.manifest(template.commit(tag))) for tag in tags]


def owners(template: Template, commit: str) -> Ownership:
    """Whose each path is at a version."""

    def text_of(name: str) -> str | None:
        try:
            return blob(template.clone, f"{commit}:{name}").decode("utf-8")
        except GitFailed:
            return None

    return ownership.read(text_of)


@dataclass(frozen=True)
class Rendered:
    """What the template gives for the pilot's answers at one version.

    Attributes:
        root: The pilot's folder therein.
        files: Each file with its hash as git computes it, and whether it may be executed.
    """

    root: Path
    files: dict[str, tuple[str, bool]]

    def content(self, name: str) -> bytes:
        """What a file holds."""
        return (self.root / name).read_bytes()


def render(template: Template, version: str, answers: dict[str, Any], folder: Path) -> Rendered:
    """A fresh copy for these answers, in an empty folder.

    Raises:
        PilotError: An answer is not valid in that version, or the version cannot be rendered.
    """
    from copier import run_copy
    from copier.errors import CopierError

    given = {name: value for name, value in answers.items() if not name.startswith("_")}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run_copy(
                template.source, folder, data=given, vcs_ref=version, defaults=True, quiet=True, unsafe=False
            )
    except ValueError as error:  # what Copier raises for an answer that a validator or a choice refuses
        said = " ".join(str(error).split())
        mend = "Change it: copier update --vcs-ref=:current: --data NAME=VALUE; commit; then run this again."
        what = f"an answer is not valid in {version}: {said}"
        raise PilotError(what, where=ANSWERS, mend=mend) from error
    except CopierError as error:
        said = " ".join(str(error).split())
        mend = "Report it to those who keep the template."
        raise PilotError(f"{version} cannot be rendered: {said}", where=template.source, mend=mend) from error
    return Rendered(folder, files_of(folder))


def files_of(folder: Path) -> dict[str, tuple[str, bool]]:
    """Each file below a folder, with its content's name and whether it may be executed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            found[name] = (hash_of(path.read_bytes()), os.access(path, os.X_OK))
    return found


def hash_of(content: bytes) -> str:
    """The content's own name; one with the line ends of Windows is the same."""
    return hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest()


def newest(tags: list[str]) -> str | None:
    """The newest release among tags, by PEP 440, without those that are previews."""
    found = []
    for tag in tags:
        try:
            version = Version(tag)
        except InvalidVersion:
            continue
        if not version.is_prerelease:
            found.append((version, tag))
    return max(found)[1] if found else None


def tags_of(template: Template) -> list[str]:
    """Every tag."""
    return git(template.clone, "tag", "--list").split()
