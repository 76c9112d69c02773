"""How long does it take to get a pilot? `copier copy --defaults` beside a template of one file.

Whole processes, as a user starts them, in turns; both templates as plain folders, then both as git
repositories with one commit.
"""

from __future__ import annotations

import shutil
import time
from functools import partial
from pathlib import Path

import subject
from measure import SCRATCH, Row, publish, take_turns

PAIRS = 7
PLACE = SCRATCH / "bench-generation"


def main() -> None:
    shutil.rmtree(PLACE, ignore_errors=True)
    plain = subject.copy_template(PLACE / "plain")
    smallest = one_file(PLACE / "smallest")
    in_git = {}
    for folder in (plain, smallest):
        in_git[folder] = Path(shutil.copytree(folder, PLACE / f"{folder.name}-git"))
        subject.commit(in_git[folder])
    rows = []
    for origin, template, floor in (
        ("plain folders", plain, smallest),
        ("git repositories", in_git[plain], in_git[smallest]),
    ):
        measured = take_turns(
            {"this template": partial(generate, template), "one file": partial(generate, floor)},
            rounds=PAIRS,
            title=f"copier copy, {origin}",
        )
        own, other = measured["this template"], measured["one file"]
        what = f"copier copy --defaults, both {origin}"
        rows.append(Row(what, own, "s", "a template of one file", other, 2.5, target_is_ratio=True))
    pilot = PLACE / "pilot"
    subject.render(plain, pilot)
    count = sum(1 for path in pilot.rglob("*") if path.is_file())
    rows.append(Row("files of a pilot", [count], "files", at_most=130))
    each = [(own - other) * 1000 / count for own, other in zip(rows[0].measured, rows[0].beside, strict=True)]
    rows.append(Row("copier copy, time for each file more", each, "ms"))
    shutil.rmtree(PLACE)
    publish("generation", rows)


def one_file(folder: Path) -> Path:
    """The smallest template that copier accepts."""
    (folder / "template").mkdir(parents=True)
    (folder / "copier.yml").write_text("_subdirectory: template\n", encoding="utf-8")
    (folder / "template" / "README.md").write_text("A file.\n", encoding="utf-8")
    return folder


def generate(template: Path) -> float:
    """Seconds that one `copier copy` takes, start of Python included."""
    pilot = PLACE / "pilot"
    shutil.rmtree(pilot, ignore_errors=True)
    started = time.perf_counter()
    subject.render(template, pilot)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
