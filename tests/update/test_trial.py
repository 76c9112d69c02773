"""The pilot's fast tests, on the update and before anybody merges it."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pilot_template.update import run
from repositories import commit, equip
from updating import releases, updated, write

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("rendered_once")]


@pytest.fixture
def equipped(pilots: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pilot whose update finds an environment, so that nothing has to be installed."""
    whole = run.trial.try_out

    def try_out(root: Path, log: Path) -> object:
        equip(root)
        python = root / ".venv" / "bin" / "python"
        paths = f'export PYTHONPATH="{root}/src:{root}/harness/src"\n'
        python.write_text(python.read_text().replace("\n", f"\n{paths}", 1), encoding="utf-8")
        return whole(root, log)

    monkeypatch.setattr(run.trial, "try_out", try_out)
    return Path(shutil.copytree(pilots(list(releases())[-1]), tmp_path / "pilot", symlinks=True))


def test_tests_that_fail_on_the_update_need_somebody(equipped: Path, released: Path) -> None:
    (equipped / "tests" / "test_example.py").unlink()
    write(equipped, "tests/test_ours.py", "def test_ours() -> None:\n    assert not 'ours'\n")
    commit(equipped, "Red")
    report = updated(equipped, released, tests=True, apply=True)
    assert report.tests.passed is False
    assert any("test_ours" in line for line in report.tests.tail)
    assert "the pilot's fast tests failed on the update (make setup test-fast)" in report.needs_somebody
    assert report.exit_code == 1
    assert not report.applied


def test_tests_that_pass_are_said_and_see_the_update(equipped: Path, released: Path) -> None:
    """They run in the work tree: they find the new version there, and not the checkout."""
    record = equipped / ".copier-answers.yml"
    write(
        equipped,
        "tests/test_example.py",
        "import hashlib\nfrom pathlib import Path\n\n\ndef test_new() -> None:\n"
        "    here = Path(__file__).parents[1] / '.copier-answers.yml'\n"
        "    found = hashlib.sha256(here.read_bytes()).hexdigest()\n"
        f"    assert found != '{hashlib.sha256(record.read_bytes()).hexdigest()}'\n",
    )
    commit(equipped, "Ours")
    report = updated(equipped, released, tests=True)
    assert report.tests.passed is True, report.tests.tail
