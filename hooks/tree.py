"""A pilot's folder as checks see it: its files, and what git knows of them. Nothing here writes."""

from __future__ import annotations

import os
import stat
import subprocess
from functools import cached_property
from pathlib import Path, PurePosixPath

from pilot_template.hooks.result import Unknown

# git runs what core.fsmonitor names, and refreshes its index: a check does neither.
QUIET = ("-c", "core.fsmonitor=false", "-c", "core.quotePath=false")


class Tree:
    """A pilot.

    Args:
        root: The pilot's folder, in a git repository.
        same_version: Whether these checks are of the same version as the pilot, as its hooks are: then the
            pilot's list of hashes has to be the one that these checks carry.
    """

    def __init__(self, root: Path, *, same_version: bool = False) -> None:
        self.root = root
        self.same_version = same_version

    def git(self, *arguments: str, fine: tuple[int, ...] = (0,)) -> str:
        """What git says.

        Args:
            arguments: A command that reads.
            fine: The exit codes that are an answer.

        Raises:
            Unknown: git is missing, or refuses.
        """
        try:
            done = subprocess.run(
                ["git", *QUIET, *arguments],
                cwd=self.root,
                env=os.environ | {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
            )
        except FileNotFoundError as error:
            raise Unknown("git is not installed. Install git.") from error
        said = done.stdout.decode("utf-8", "surrogateescape")
        if done.returncode not in fine:
            complaint = done.stderr.decode("utf-8", "replace").strip().splitlines()
            why = complaint[0] if complaint else f"exit code {done.returncode}"
            raise Unknown(
                f"git cannot be asked about {self.root} ({why}). Make it a repository that you may read."
            )
        return said

    @cached_property
    def tracked(self) -> tuple[str, ...]:
        """Every path that is in git's index, in order; also where the file itself is gone."""
        return self._listed("--cached")

    @cached_property
    def present(self) -> tuple[str, ...]:
        """Every file that is there and not ignored by git, in order."""
        return tuple(
            name for name in self._listed("--cached", "--others", "--exclude-standard") if self.has(name)
        )

    def _listed(self, *which: str) -> tuple[str, ...]:
        return tuple(sorted({name for name in self.git("ls-files", "-z", *which).split("\0") if name}))

    def has(self, name: str) -> bool:
        """Whether something of that name is there, be it a link that leads nowhere."""
        return os.path.lexists(self.root / name)

    def is_plain(self, name: str) -> bool:
        """Whether it is a file, and no link, device or folder."""
        try:
            return stat.S_ISREG(os.lstat(self.root / name).st_mode)
        except OSError:
            return False

    def size(self, name: str) -> int:
        """Bytes of the file itself."""
        return os.lstat(self.root / name).st_size

    def content(self, name: str) -> bytes | None:
        """What is in a plain file; None where there is none of that name."""
        return (self.root / name).read_bytes() if self.is_plain(name) else None

    def text(self, name: str) -> str | None:
        """The same as text; what is not UTF-8 is replaced."""
        content = self.content(name)
        return None if content is None else content.decode("utf-8", "replace")


def suffix(name: str) -> str:
    """The end of a file's name from its last dot on, in lower case."""
    return PurePosixPath(name).suffix.lower()
