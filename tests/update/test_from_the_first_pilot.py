"""`copier update` from the first pilot that ran from end to end to this version: no conflict, nothing lost.

FIRST is the commit with which the first end-to-end pilot was complete: sources, pipeline, serving, kill
switch, their tests and benchmarks. A clone that is too shallow to have it skips, and says so.
"""

from __future__ import annotations

import os
import subprocess
import warnings
from pathlib import Path

import pytest
import yaml
from copier import run_copy, run_update

from pilot_template.hooks import CHECKS, Status, Tree, manifest, run
from pilot_template.update import ownership
from rendering import ROOT, files
from repositories import commit, git

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]
FIRST = "fc22e71"


@pytest.fixture(scope="module")
def repository(template_at_head: Path) -> Path:
    known = subprocess.run(["git", "cat-file", "-e", f"{FIRST}^{{commit}}"], cwd=ROOT, capture_output=True)
    if known.returncode != 0:
        pytest.skip(f"this clone is shallow and has no {FIRST}: git fetch --unshallow")
    return template_at_head


@pytest.fixture
def pilot(repository: Path, tmp_path: Path) -> Path:
    """A pilot as it was then."""
    folder = tmp_path / "pilot"
    run_copy(
        str(repository),
        folder,
        vcs_ref=FIRST,
        defaults=True,
        quiet=True,
        unsafe=False,
        data={"team": "Credit"},
    )
    git(folder, "init", "--quiet", "--initial-branch=main")
    commit(folder, "Start from pilot-template")
    assert not (folder / manifest.MANIFEST).exists(), "it is no longer the first pilot"
    return folder


@pytest.fixture
def expected(repository: Path, tmp_path: Path) -> Path:
    """A fresh copy of this version."""
    folder = tmp_path / "expected"
    run_copy(
        str(repository),
        folder,
        vcs_ref="HEAD",
        defaults=True,
        quiet=True,
        unsafe=False,
        data={"team": "Credit"},
    )
    return folder


def update(pilot: Path) -> None:
    """As a person does: no trust, no questions; a warning of Copier's is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        run_update(pilot, vcs_ref="HEAD", defaults=True, overwrite=True, quiet=True, unsafe=False)


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files(folder) if not name.startswith(".git/")}


def assert_no_conflict(pilot: Path) -> None:
    assert git(pilot, "diff", "--name-only", "--diff-filter=U") == ""
    assert [name for name in files(pilot) if name.endswith((".rej", ".orig"))] == []
    conflicts = next(check for check in CHECKS if check.name == "conflict-leftovers")
    assert run(conflicts, Tree(pilot)).status is Status.PASSED


def is_teams(name: str) -> bool:
    return ownership.in_folder(ROOT).is_teams(name)


def test_an_untouched_pilot_becomes_a_fresh_copy_but_for_what_is_the_teams(
    pilot: Path, expected: Path
) -> None:
    before = contents(pilot)
    update(pilot)
    assert_no_conflict(pilot)
    after, fresh = contents(pilot), contents(expected)
    assert {name: text for name, text in after.items() if not is_teams(name)} == {
        name: text for name, text in fresh.items() if not is_teams(name)
    }
    assert {name: text for name, text in after.items() if is_teams(name)} == {
        name: text for name, text in before.items() if is_teams(name)
    }
    standard = next(check for check in CHECKS if check.name == "standard-files")
    git(pilot, "add", "--all")
    assert run(standard, Tree(pilot, same_version=True)).status is Status.PASSED


WORKFLOW = "on: push\njobs:\n  ours:\n    runs-on: ubuntu-latest\n    steps:\n      - run: make ours\n"


def edited(pilot: Path) -> dict[str, bytes]:
    """What teams do to a pilot; gives what has to be the same afterwards."""

    def change(name: str, old: str, new: str) -> None:
        text = (pilot / name).read_text(encoding="utf-8")
        assert old in text, name
        (pilot / name).write_text(text.replace(old, new, 1), encoding="utf-8")

    for name in ("sources", "contract", "features", "model", "fallback"):
        file = pilot / "src" / "late_payment" / f"{name}.py"
        file.write_text(f"# Ours.\n{file.read_text(encoding='utf-8')}\n# The end.\n", encoding="utf-8")
    change("pilot.toml", "port = 8080", "port = 8443")
    change("pilot.toml", 'team = "Credit"', 'team = "Credit control"')
    change("params.yaml", "rounds: 50", "rounds: 40")
    change("README.md", "## Three commands", "Ours: see the wiki.\n\n## Three commands")
    change("pyproject.toml", '"pilot-template-harness",', '"pilot-template-harness",\n    "holidays",')
    for name, text in {
        "tests/test_ours.py": "def test_ours() -> None:\n    assert True\n",
        "src/late_payment/calendar.py": "DAYS = 5\n",
        ".github/workflows/ours.yml": WORKFLOW,
        "local.mk": "ours: ## ours\n\t@echo ours\n",
        ".pre-commit-team.yaml": "repos: []\n",
        "docs/notes.md": "Ours.\n",
        "evidence/ours.json": "{}\n",
    }.items():
        (pilot / name).parent.mkdir(parents=True, exist_ok=True)
        (pilot / name).write_text(text, encoding="utf-8")
    (pilot / "tests/test_example.py").unlink()
    (pilot / "simulation.yaml").unlink()
    ours = contents(pilot)
    started = git(pilot, "show", "--name-only", "--format=", "HEAD").split()
    return {name: text for name, text in ours.items() if is_teams(name) or name not in started}


def test_a_pilot_with_a_teams_edits_keeps_every_byte_of_them(pilot: Path, expected: Path) -> None:
    ours = edited(pilot)
    assert len(ours) >= 17
    commit(pilot, "Ours")
    update(pilot)
    assert_no_conflict(pilot)
    after, fresh = contents(pilot), contents(expected)
    assert {name: text for name, text in after.items() if name in ours} == ours
    assert not (pilot / "tests/test_example.py").exists(), "what the team deleted stays deleted"
    assert not (pilot / "simulation.yaml").exists()
    rest = {name for name in after if name not in ours}
    assert {name: after[name] for name in rest} == {
        name: text for name, text in fresh.items() if not is_teams(name)
    }


def test_what_is_new_and_the_teams_comes_when_it_is_asked_for(
    pilot: Path, expected: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """With the very command that the update names."""
    ours = edited(pilot)
    commit(pilot, "Ours")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run_update(pilot, vcs_ref="HEAD", defaults=True, overwrite=True, unsafe=False)
    commit(pilot, "Update")
    said = capfd.readouterr().err
    (command,) = [line.strip() for line in said.splitlines() if line.strip().startswith("copier recopy")]
    before = contents(pilot)
    assert "governance/system.yaml" not in before
    environment = os.environ | {"PATH": f"{ROOT / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=pilot,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    after = contents(pilot)
    assert {name: text for name, text in after.items() if name in before} == before
    assert ours.items() <= after.items()
    assert set(after) == set(before) | set(contents(expected))
    assert (pilot / "governance/system.yaml").read_bytes() == (
        expected / "governance/system.yaml"
    ).read_bytes()
    answers = yaml.safe_load((pilot / ".copier-answers.yml").read_text(encoding="utf-8"))
    assert answers["team"] == "Credit"


def test_an_edit_of_a_standard_file_is_seen_after_the_update_too(pilot: Path) -> None:
    """A merge that is clean can still weaken the standard; only the list of hashes tells."""
    makefile = pilot / "Makefile"
    text = makefile.read_text(encoding="utf-8")
    assert text.count("$(python) -m pytest") == 1
    makefile.write_text(text.replace("$(python) -m pytest", "@true || $(python) -m pytest"), encoding="utf-8")
    commit(pilot, "Make it green")
    update(pilot)
    git(pilot, "add", "--all")
    standard = next(check for check in CHECKS if check.name == "standard-files")
    outcome = run(standard, Tree(pilot, same_version=True))
    assert [finding.file for finding in outcome.findings] == ["Makefile"]
