"""Each mistake is one line that says what is wrong, where, and the mend; then the next command works."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.control.audit import AUDIT, END
from mistakes import ALL
from mistakes.planted import Mistake, holds
from mistakes.table import SECTIONS, listed, rows
from rendering import ROOT

PAGE = ROOT / "docs" / "reference" / "mistakes.md"

# Stages that read what earlier ones left, and no source.
LATER = [("stage", name) for name in ("features", "train", "evaluate")]

pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize("mistake", [mistake.param() for mistake in ALL])
def test_a_mistake(mistake: Mistake, request: pytest.FixtureRequest, note: Callable[..., None]) -> None:
    needs = "new" if not mistake.trained else "modelled" if mistake.command in LATER else "trained"
    pilot = request.getfixturevalue("shared" if mistake.here else needs)
    mistake.make(pilot)
    before = pilot.written()
    if mistake.here:
        ended = pilot.here(*mistake.command, more=mistake.more)
    else:
        ended = pilot.run(*mistake.command, more=mistake.more, nobody=mistake.nobody)
    assert ended.code == mistake.code, ended
    assert holds(ended.line, mistake.says), ended.line
    # A check that says no has written its findings; anything else leaves what was there.
    if mistake.code == 2 and mistake.command != ("run",):
        # What was refused is on record, and nothing else.
        record = (AUDIT, END)
        now = pilot.written()
        assert {file: at for file, at in now.items() if Path(file).name not in record} == {
            file: at for file, at in before.items() if Path(file).name not in record
        }
    assert not pilot.parts()
    note(ended.line, ended.code, pilot.root)

    pilot.git("checkout", "-q", "-f", "--", ".")
    pilot.file("pilot.toml").chmod(0o644)
    if mistake.again:
        pilot.works(*mistake.again)
    else:
        # Nothing was written, so the next command finds what it would have found without the mistake.
        assert pilot.git("diff", "--name-only", "--", "src", "harness", "*.yaml", "*.toml") == ""


def test_debug_shows_the_traceback(new: Any, trained: Any) -> None:
    new.edit("pilot.toml", "port = 8080", "prot = 8080")
    ended = new.run("--debug", "status")
    assert ended.code == 2
    assert "Traceback" in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("pilot: pilot.toml [serving]: unknown key 'prot'")

    trained.edit("sources.py", "invoices.amount", "invoices.ammount")
    ended = trained.run("--debug", "run")
    assert ended.code == 2
    assert "Traceback" in ended.stderr
    assert "in billed" in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("pilot: sources.py line")


def test_the_page_lists_every_mistake_that_is_planted(titles: dict[str, Path]) -> None:
    page = PAGE.read_text(encoding="utf-8")
    found = listed(page)
    assert len(found) == len(set(found)), "a mistake is listed twice"
    files = {path.name for path in titles.values()}
    assert set(titles) <= set(found), (
        "renew it: pytest tests/pilot --mistakes-table docs/reference/mistakes.md"
    )
    if files == {f"{name}.py" for name in SECTIONS}:
        assert set(found) == set(titles)
    for row in rows(page):
        assert row.count(" | ") >= 2
        assert "/tmp" not in row
        assert "Traceback" not in row
