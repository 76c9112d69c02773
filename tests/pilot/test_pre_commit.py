"""What git runs before a commit in a pilot: passes on a new one, and names file and mend for each fault.

The hooks are installed as somebody with an empty home would have them, from this repository's own commit.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from rendering import copy_template, render
from repositories import bare_environment, commit, equip, git

pytestmark = pytest.mark.timeout(300)


@dataclass
class Hooked:
    """A pilot with hooks."""

    root: Path
    environment: dict[str, str]

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the pilot; what it says is all in stdout."""
        return subprocess.run(
            command,
            cwd=self.root,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=280,
        )

    def all_files(self) -> tuple[int, dict[str, str]]:
        """The exit code, and what each hook that failed said."""
        done = self.run(".venv/bin/pre-commit", "run", "--all-files", "--color=never")
        parts = re.split(r"^(.+?)\.{3,}(?:\(.*\))?(Passed|Failed|Skipped)$", done.stdout, flags=re.M)
        told = zip(parts[1::3], parts[2::3], parts[3::3], strict=True)
        return done.returncode, {name: said for name, ended, said in told if ended == "Failed"}

    def add(self, name: str, content: str) -> None:
        """A new file, in git."""
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")
        git(self.root, "add", "--force", name)

    def edit(self, name: str, old: str, new: str) -> None:
        """A changed file, in git."""
        text = (self.root / name).read_text(encoding="utf-8")
        assert old in text
        self.add(name, text.replace(old, new, 1))


@pytest.fixture(scope="session")
def home(fresh_once: Path, made_once: Callable[..., Path]) -> Path:
    """A home that was empty, and in which the hooks are installed once."""

    def install(folder: Path) -> None:
        folder.mkdir()
        command = [sys.executable, "-m", "pre_commit", "install-hooks"]
        subprocess.run(command, cwd=fresh_once, env=bare_environment(folder), check=True)

    return made_once("home-with-hooks", install)


@pytest.fixture
def hooked(fresh: Path, home: Path) -> Hooked:
    equip(fresh)
    return Hooked(fresh, bare_environment(home))


def test_a_new_pilot_passes(hooked: Hooked) -> None:
    done = hooked.run("make", "lint")
    assert done.returncode == 0, done.stdout
    assert "NOT checked" not in done.stdout
    config = yaml.safe_load((hooked.root / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    hooks = [hook for each in config["repos"] for hook in each["hooks"]]
    assert len(re.findall(r"\.\.Passed$", done.stdout, re.M)) == len(hooks), done.stdout
    assert git(hooked.root, "status", "--porcelain") == ""
    assert (hooked.root.parent / "fresh").is_dir()


TEAM = """
# Yours.
repos:
  - repo: local
    hooks:
      - id: no-loops
        name: no loops
        entry: "^while "
        language: pygrep
        types: [python]
"""
# A key that nobody has; put together here, so that this file holds none.
KEY = "AKIA" + "IOSFODNN7" + "ABCDEFG"

# The hook that notices; what somebody did; the file and the mend that it names.
FAULTS: dict[str, tuple[Callable[[Hooked], None], tuple[str, ...]]] = {
    "PT101 standard-files": (
        lambda pilot: pilot.edit("Makefile", "-m pytest -rs", "-m pytest -rs || true"),
        ("Makefile: it is not as the standard gave it", "git checkout HEAD -- Makefile"),
    ),
    "PT102 answers-file": (
        lambda pilot: pilot.edit(".copier-answers.yml", "_commit: ", "_commit: v9.9.9 # "),
        (".pre-commit-config.yaml line", "the answers file says v9.9.9", "git log -p"),
    ),
    "PT201 governance-documents": (
        lambda pilot: pilot.edit("governance/risks.yaml", "owner:", "ownr:"),
        ("governance/risks.yaml: unknown key 'ownr'", "Did you mean 'owner'?"),
    ),
    "PT301 conflict-leftovers": (
        lambda pilot: pilot.add("docs/notes.md", "<<<<<<< ours\na\n=======\nb\n>>>>>>> theirs\n"),
        ("docs/notes.md line 1: it holds a conflict", "take the marker lines out"),
    ),
    "PT302 large-files": (
        lambda pilot: pilot.add("docs/export.csv", (299 * "1;" + "2\n") * 1_000),
        ("docs/export.csv: it has 600,000 bytes", "git rm --cached docs/export.csv"),
    ),
    "PT303 data-files": (
        lambda pilot: pilot.add("docs/customers.parquet", "PAR1"),
        ("docs/customers.parquet: a .parquet file is data", "git rm --cached docs/customers.parquet"),
    ),
    "PT401 pipeline-lock": (
        lambda pilot: pilot.add("evidence/metrics.json", "{}\n"),
        ("dvc.lock: it is missing, and evidence/metrics.json claims", ".venv/bin/pilot run"),
    ),
    "style (mend with `make format`)": (
        lambda pilot: pilot.add("src/late_payment/ugly.py", "x = {  'a':1 }\n"),
        ("src/late_payment/ugly.py",),
    ),
    "likely mistakes (`make format` mends some)": (
        lambda pilot: pilot.add("src/late_payment/idle.py", "import itertools\n"),
        ("src/late_payment/idle.py:1", "`itertools` imported but unused"),
    ),
    "no secrets (what is none: `pragma: allowlist secret` in the line)": (
        lambda pilot: pilot.add("docs/access.md", f"key = '{KEY}'\n"),
        ("docs/access.md:1", "pragma: allowlist secret"),
    ),
    "your own hooks (.pre-commit-team.yaml)": (
        lambda pilot: (
            pilot.add(".pre-commit-team.yaml", TEAM),
            pilot.add("src/late_payment/ours.py", "while False:\n    pass\n"),
        ),
        ("src/late_payment/ours.py:1:while",),
    ),
}


def said_of(hook: str, failed: dict[str, str], nested: str) -> None:
    """What the hook that failed says names the file and the mend."""
    said = f"{hook} {failed[hook]} {nested}"
    for part in FAULTS[hook][1]:
        assert part in said, said


def test_planted_faults_are_named_each_by_its_hook(hooked: Hooked) -> None:
    """All at once; each alone, and then by no other hook, in `make test-full`."""
    for plant, _ in FAULTS.values():
        plant(hooked)
    code, failed = hooked.all_files()
    assert code == 1
    # pre-commit runs the team's hooks inside the one that is the standard's
    nested = failed.pop("no loops", "")
    assert list(failed) == list(FAULTS)
    for hook in FAULTS:
        said_of(hook, failed, nested)


@pytest.mark.slow
@pytest.mark.parametrize("hook", FAULTS)
def test_a_planted_fault_is_named_by_its_hook_and_by_no_other(hooked: Hooked, hook: str) -> None:
    FAULTS[hook][0](hooked)
    code, failed = hooked.all_files()
    assert code == 1
    nested = failed.pop("no loops", "")
    assert list(failed) == [hook], failed
    said_of(hook, failed, nested)


def test_every_hook_has_a_planted_fault(fresh_once: Path) -> None:
    config = yaml.safe_load((fresh_once / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    from pilot_template.hooks import CHECKS

    names = {f"{check.id} {check.name}" for check in CHECKS}
    names |= {hook["name"] for hook in config["repos"][1]["hooks"]}
    assert set(FAULTS) == names


def test_git_refuses_a_commit_with_a_fault_and_takes_one_without(hooked: Hooked) -> None:
    assert hooked.run("make", "hooks").returncode == 0
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")
    hooked.edit("Makefile", "-m pytest -rs", "-m pytest -rs || true")
    done = hooked.run("git", *identity, "commit", "--message", "Make it green")
    assert done.returncode == 1, done.stdout
    assert "Makefile: it is not as the standard gave it" in done.stdout
    git(hooked.root, "checkout", "HEAD", "--", "Makefile")
    hooked.add("docs/notes.md", "Ours.\n")
    done = hooked.run("git", *identity, "commit", "--message", "Notes")
    assert done.returncode == 0, done.stdout


def test_a_secret_is_tried_out_nowhere(hooked: Hooked) -> None:
    """detect-secrets would by default ask the services whether the key works."""
    config = yaml.safe_load((hooked.root / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    (entry,) = [hook["entry"] for hook in config["repos"][1]["hooks"] if hook["id"] == "secrets"]
    assert "--no-verify" in entry


def test_what_is_no_secret_can_be_excepted(hooked: Hooked) -> None:
    hooked.add("docs/notes.md", f"key = '{KEY}'  <!-- pragma: allowlist secret -->\n")
    assert hooked.all_files() == (0, {})


def test_what_is_no_secret_can_be_excepted_in_a_baseline(hooked: Hooked) -> None:
    hooked.add("docs/notes.md", f"key = '{KEY}'\n")
    baseline = hooked.run(".venv/bin/detect-secrets", "scan", "--no-verify", "docs").stdout
    hooked.add(".secrets.baseline", baseline)
    assert hooked.all_files() == (0, {})
    hooked.add("docs/more.md", f"key = '{KEY[:-1]}Z'\n")
    assert hooked.all_files()[0] == 1


def test_outside_git_make_says_what_to_do(hooked: Hooked) -> None:
    shutil.rmtree(hooked.root / ".git")
    hooked.environment["GIT_CEILING_DIRECTORIES"] = str(hooked.root.parent)
    for target in ("lint", "hooks"):
        done = hooked.run("make", target)
        assert done.returncode == 2
        assert f"make {target}: this is no git repository yet. Run: git init" in done.stdout


def test_a_pilot_without_a_commit_of_the_template_says_so_and_checks_the_rest(
    tmp_path: Path, home: Path
) -> None:
    root = render(copy_template(tmp_path / "template"), tmp_path / "pilot")
    git(root, "init", "--quiet", "--initial-branch=main")
    commit(root, "Start")
    equip(root)
    pilot = Hooked(root, bare_environment(home))
    done = pilot.run("make", "lint")
    assert done.returncode == 0, done.stdout
    assert "the conventions are NOT checked" in done.stdout
    assert "run copier update --vcs-ref=HEAD" in done.stdout
    pilot.add("src/late_payment/ours.py", "x = {  'a':1 }\n")
    assert pilot.all_files()[0] == 1


def test_a_template_that_cannot_be_had_is_no_pass(hooked: Hooked) -> None:
    hooked.edit(".pre-commit-config.yaml", 'repo: "/', 'repo: "/nowhere/')
    commit(hooked.root, "Moved")
    done = hooked.run("make", "lint")
    assert done.returncode != 0
    assert "nowhere" in done.stdout
