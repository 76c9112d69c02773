"""The targets that CI calls, called: each is there, and says one line where it cannot do its work.

lint, hooks: test_pre_commit.py. reproduce: test_in_step.py. update-check: tests/update.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from repositories import bare_environment, equip

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def verbs() -> set[str]:
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli", "--help"], capture_output=True, text=True, check=True
    )
    return set(re.findall(r"^  ([a-z-]+)  ", done.stdout, re.M))


def test_every_verb_that_the_makefile_calls_is_there(fresh_once: Path, verbs: set[str]) -> None:
    called = set(
        re.findall(r"\.venv/bin/pilot ([a-z-]+)", (fresh_once / "Makefile").read_text(encoding="utf-8"))
    )
    assert called >= {"demo", "run", "monitor"}
    assert called <= verbs


def test_a_pilot_with_nothing_to_monitor_does_not_pass(fresh: Path, tmp_path: Path) -> None:
    equip(fresh)
    done = subprocess.run(
        ["make", "monitor"],
        cwd=fresh,
        env=bare_environment(tmp_path / "home"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert re.search(r"^make: .* Error 3$", done.stderr, re.M), done.stderr
    assert len(re.findall(r"^pilot: ", done.stderr, re.M)) == 1
    assert "Traceback" not in done.stderr
