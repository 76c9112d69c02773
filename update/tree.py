"""The pilot as git holds it, and as it will be: no checkout takes part, so no filter, link or line end does.

What a team committed is moved by its name in git and never read and written again, so it stays what it was to
the byte, whatever a filter or an attribute would make of it in a work tree.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from pilot_template.update.git import SETTINGS, environment, git, listed
from pilot_template.update.pilot import Pilot

PLAIN, EXECUTABLE, LINK = "100644", "100755", "120000"


@dataclass(frozen=True)
class Entry:
    """A file as git holds it.

    Attributes:
        mode: What git calls its kind: plain, executable, a link, or another repository.
        blob: The name of its content; empty while it is not in git yet.
        content: What it holds, where that is new.
    """

    mode: str
    blob: str = ""
    content: bytes = b""


@dataclass
class Tree:
    """A pilot's files, from its folder on, that can be changed.

    Attributes:
        pilot: The pilot.
        entries: Each file.
        before: Each file as it was.
    """

    pilot: Pilot
    entries: dict[str, Entry]
    before: dict[str, Entry] = field(init=False)

    def __post_init__(self) -> None:
        self.before = dict(self.entries)

    @property
    def touched(self) -> set[str]:
        """Every path that is no longer what it was."""
        names = self.entries.keys() | self.before.keys()
        return {name for name in names if self.entries.get(name) != self.before.get(name)}

    def content(self, name: str) -> bytes:
        """What a file holds; of a link, where it leads."""
        entry = self.entries[name]
        if not entry.blob:
            return entry.content
        if entry.mode not in (PLAIN, EXECUTABLE, LINK):
            return entry.blob.encode()
        done = subprocess.run(
            ["git", *SETTINGS, "cat-file", "blob", entry.blob],
            cwd=self.pilot.root,
            env=environment(),
            capture_output=True,
            check=True,
        )
        return done.stdout

    def contents(self, names: list[str]) -> dict[str, bytes]:
        """What many files hold, asked for at once."""
        names = [name for name in names if name in self.entries and self.entries[name].mode != "160000"]
        given = "".join(f"{self.entries[name].blob}\n" for name in names).encode()
        done = subprocess.run(
            ["git", *SETTINGS, "cat-file", "--batch"],
            cwd=self.pilot.root,
            env=environment(),
            input=given,
            capture_output=True,
            check=True,
        )
        found, at = {}, 0
        for name in names:
            end = done.stdout.index(b"\n", at)
            size = int(done.stdout[at:end].split()[2])
            found[name] = done.stdout[end + 1 : end + 1 + size]
            at = end + 1 + size + 1
        return found

    def obstacle(self, name: str) -> str | None:
        """What is in the way of a file: a part of its way that is no folder, or a folder at its end."""
        parts = name.split("/")
        for count in range(1, len(parts)):
            way = "/".join(parts[:count])
            if way in self.entries:
                return way
        return name if any(each.startswith(f"{name}/") for each in self.entries) else None

    def is_free(self, name: str) -> bool:
        """Whether nothing has the name, nor lies below it, nor stands in the way of it."""
        return name not in self.entries and self.obstacle(name) is None

    def put(self, name: str, content: bytes, mode: str) -> None:
        """Write a file."""
        self.entries[name] = Entry(mode, content=content)

    def take(self, name: str) -> None:
        """Take a file away."""
        del self.entries[name]

    def move(self, name: str, new: str) -> None:
        """Give a file another name; its content is not touched."""
        self.entries[new] = self.entries.pop(name)

    def write(self, folder: Path) -> str:
        """Bring it into git and give the tree's name.

        Args:
            folder: An empty folder for what is needed meanwhile.
        """
        new = [name for name in sorted(self.touched) if name in self.entries and not self.entries[name].blob]
        folder.mkdir()
        for number, name in enumerate(new):
            (folder / str(number)).write_bytes(self.entries[name].content)
        paths = "".join(f"{folder / str(number)}\n" for number in range(len(new))).encode()
        hashed = git(self.pilot.root, "hash-object", "-w", "--no-filters", "--stdin-paths", given=paths)
        for name, blob in zip(new, hashed.split(), strict=True):
            self.entries[name] = Entry(self.entries[name].mode, blob)
        lines = []
        for name in sorted(self.touched):
            path = (self.pilot.prefix + name).encode("utf-8", "surrogateescape")
            entry = self.entries.get(name)
            facts = f"{entry.mode} {entry.blob} 0" if entry else f"0 {'0' * len(self.pilot.head)} 0"
            # What goes makes room for what comes: a folder can become a file.
            lines.append((entry is not None, facts.encode() + b"\t" + path + b"\0"))
        index = {"GIT_INDEX_FILE": str(folder / "index")}
        git(self.pilot.root, "read-tree", self.pilot.head, more=index)
        given = b"".join(line for _, line in sorted(lines, key=lambda each: each[0]))
        git(self.pilot.top, "update-index", "-z", "--index-info", given=given, more=index)
        return git(self.pilot.root, "write-tree", more=index)


def read(pilot: Pilot) -> Tree:
    """The pilot's newest commit."""
    found = {}
    for entry in listed(pilot.root, "ls-tree", "-r", "-z", "--full-tree", pilot.head):
        facts, _, path = entry.partition("\t")
        mode, _, blob = facts.split()
        if path.startswith(pilot.prefix):
            found[path.removeprefix(pilot.prefix)] = Entry(mode, blob)
    return Tree(pilot, found)
