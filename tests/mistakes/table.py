"""docs/reference/mistakes.md: written from what the tests saw, and read back to compare the list."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path

HEAD = """\
# Mistakes, and what is said to them

What somebody did, the one line on stderr, and the exit code: 0 ok, 1 a check said no, 2 something to mend,
3 too little to say, 130 interrupted. `pilot serve` ends with 0 when it is told to end. `pilot --debug VERB`
shows the traceback as well. `PILOT` stands for the pilot's folder.

Written by `pytest tests/pilot --mistakes-table docs/reference/mistakes.md`: each line is from a generated
pilot in which the mistake was made. The tests then mend it and find that the next command works.
"""
SECTIONS = {
    "test_mistakes": "Settings, sources, code and commands",
    "test_mistakes_models": "Models and the service",
    "test_mistakes_surroundings": "Git, network, rights and disks",
    "test_mistakes_interruptions": "Interruptions, and two at once",
    "test_drill": "Drills",
}


def table(said: Mapping[str, tuple[str, int]], titles: Mapping[str, Path]) -> str:
    """The page, in the order in which the tests stand."""
    parts = [HEAD]
    for file, group in groupby((title for title in titles if title in said), key=lambda title: titles[title]):
        parts.append(
            f"\n## {SECTIONS[file.stem]}\n\n| what somebody did | what is said | exit code |\n|---|---|---|\n"
        )
        parts += [f"| {title} | {_cell(said[title][0])} | {said[title][1]} |\n" for title in group]
    return "".join(parts)


def listed(page: str) -> list[str]:
    """The mistakes that a page lists."""
    rows = re.findall(r"^\| (.+?) \| .+ \| \d+ \|$", page, re.MULTILINE)
    return [row for row in rows if row != "what somebody did"]


def rows(page: str) -> Iterable[str]:
    """The lines of a page that are rows of its tables."""
    return (line for line in page.splitlines() if re.search(r"\| \d+ \|$", line))


def _cell(line: str) -> str:
    # Numbers of processes, temporary folders and today's date differ from run to run, and say nothing.
    line = re.sub(r"process \d+", "process N", line)
    line = re.sub(r"/[^\s:,)'\"]*/pytest-[^\s:,)'\"]*", "…", line)
    line = re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1…", line)
    line = re.sub(r"(expired on|clock says) [-0-9]{10}( [0-9:]{5} UTC)?", r"\1 …", line)
    line = re.sub(r" at /__w/\S+ line \d+ \.", "", line)
    return line.replace("|", "\\|").replace("<", "&lt;")
