"""The CI that a pilot gets: valid, careful, and made of the Makefile's targets."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

BIN = Path(sys.executable).parent
WORKFLOWS = ("pilot.yml", "pilot-scheduled.yml", "pilot-audit.yml")


@pytest.fixture
def github(rendered: Callable[..., Path]) -> Path:
    return rendered(ci="github") / ".github" / "workflows"


@pytest.fixture
def gitlab(rendered: Callable[..., Path]) -> dict[str, Any]:
    return read(rendered(ci="gitlab") / ".gitlab-ci.yml")


def read(file: Path) -> Any:
    """As CI reads it: `on` is a key, and no truth."""
    return yaml.load(file.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)


def valid(schema: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / "check-jsonschema"), "--builtin-schema", schema, *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def zizmor(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BIN / "zizmor"), "--offline", "--no-progress", "--quiet", str(folder)],
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("name", WORKFLOWS)
def test_github_takes_the_workflows(github: Path, name: str) -> None:
    done = valid("vendor.github-workflows", str(github / name))
    assert done.returncode == 0, done.stdout


def test_a_workflow_with_a_misspelt_key_is_refused(github: Path) -> None:
    file = github / "pilot.yml"
    file.write_text(file.read_text().replace("timeout-minutes", "timeout-minuts"))
    assert valid("vendor.github-workflows", str(file)).returncode == 1


def test_gitlab_takes_the_pipeline(rendered: Callable[..., Path]) -> None:
    file = rendered(ci="gitlab") / ".gitlab-ci.yml"
    arguments = ("vendor.gitlab-ci", "--data-transform", "gitlab-ci", str(file))
    assert valid(*arguments).returncode == 0, valid(*arguments).stdout
    file.write_text(file.read_text().replace("  timeout:", "  timeot:").replace("script:", "scirpt:"))
    assert valid(*arguments).returncode == 1


def test_zizmor_finds_nothing(github: Path) -> None:
    done = zizmor(github)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("@3d3c42e5aac5ba805825da76410c181273ba90b1  # v7.0.1", "@v7"),
        ('run: make "$TARGET"', "run: make ${{ github.head_ref }}"),
        ("  pull_request:", "  pull_request_target:"),
    ],
)
def test_zizmor_finds_what_is_planted(github: Path, old: str, new: str) -> None:
    file = github / "pilot.yml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    assert zizmor(github).returncode != 0


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflows_have_few_rights_time_outs_and_pinned_actions(github: Path, name: str) -> None:
    workflow = read(github / name)
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["group"]
    for job in workflow["jobs"].values():
        assert "permissions" not in job, "GitHub's own token may read, and nothing else"
        assert 0 < int(job["timeout-minutes"]) <= 60
    used = re.findall(r"uses: (.*)", (github / name).read_text(encoding="utf-8"))
    assert used
    assert all(re.fullmatch(r"[\w/-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", each) for each in used)


def github_commands(folder: Path, name: str) -> Iterator[tuple[str, str]]:
    """Each job's commands, with the matrix put in."""
    for job, told in read(folder / name)["jobs"].items():
        targets = told.get("strategy", {}).get("matrix", {}).get("target", [""])
        for step in told["steps"]:
            for target in targets if "run" in step else []:
                yield job, step["run"].replace('"$TARGET"', target)


def gitlab_commands(pipeline: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for job, told in pipeline.items():
        if "script" in told:
            targets = told.get("parallel", {}).get("matrix", [{"TARGET": [""]}])[0]["TARGET"]
            for line in [*pipeline[told["extends"]]["before_script"], *told["script"]]:
                yield from ((job, line.replace('"$TARGET"', target)) for target in targets)


CHECKS = {"make setup", "make lint", "make test", "make reproduce"}
SCHEDULED = {
    "update-check": {"make setup", "make update-check"},
    "monitor": {"make setup", "make monitor"},
    "propose-update": {"make setup", "make propose-update"},
}
AUDIT = {"audit": {"make setup", "make audit"}}
# Who may see what: each secret belongs to an environment that one job is in.
SECRETS = {
    "monitor": {"PILOT_STORE__URL", "PILOT_TRACKING__URI", "PILOT_ALERTS__TARGET"},
    "propose-update": {"PILOT_UPDATE_TOKEN"},
}


def test_github_calls_the_makefile_and_nothing_else(github: Path) -> None:
    assert {command for _, command in github_commands(github, "pilot.yml")} == CHECKS
    for name, jobs in (("pilot-scheduled.yml", SCHEDULED), ("pilot-audit.yml", AUDIT)):
        called = list(github_commands(github, name))
        assert {job: {command for each, command in called if each == job} for job, _ in called} == jobs


def test_gitlab_calls_the_same(gitlab: dict[str, Any]) -> None:
    called = list(gitlab_commands(gitlab))
    by_job = {job: {command for each, command in called if each == job} for job, _ in called}
    assert by_job == {"check": CHECKS, **SCHEDULED, **AUDIT}


def test_what_ci_calls_is_in_the_makefile(pilot: Path) -> None:
    targets = re.findall(r"^([a-z-]+):.*## ", (pilot / "Makefile").read_text(encoding="utf-8"), re.M)
    called = CHECKS.union(*SCHEDULED.values(), *AUDIT.values())
    assert {command.removeprefix("make ") for command in called} <= set(targets)


def test_the_monitor_runs_only_where_somebody_switched_it_on(github: Path, gitlab: dict[str, Any]) -> None:
    workflow = read(github / "pilot-scheduled.yml")
    assert set(workflow["on"]) == {"schedule", "workflow_dispatch"}
    job = workflow["jobs"]["monitor"]
    assert job["if"] == "vars.PILOT_MONITOR == 'on'"
    assert job["environment"] == "monitor", "its secrets are nobody else's"
    (rule,) = gitlab["monitor"]["rules"]
    assert rule["if"] == '$CI_PIPELINE_SOURCE == "schedule" && $PILOT_MONITOR == "on"'


def test_an_update_is_proposed_only_where_somebody_switched_it_on_and_then_in_place_of_the_check(
    github: Path, gitlab: dict[str, Any]
) -> None:
    jobs = read(github / "pilot-scheduled.yml")["jobs"]
    assert jobs["propose-update"]["if"] == "vars.PILOT_UPDATE == 'on'"
    assert jobs["update-check"]["if"] == "vars.PILOT_UPDATE != 'on'"
    (rule,) = gitlab["propose-update"]["rules"]
    assert rule["if"] == '$CI_PIPELINE_SOURCE == "schedule" && $PILOT_UPDATE == "on"'
    (rule,) = gitlab["update-check"]["rules"]
    assert rule["if"] == '$CI_PIPELINE_SOURCE == "schedule" && $PILOT_UPDATE != "on"'


def test_an_update_has_the_history_and_what_it_pushes_with_in_an_environment_of_its_own(
    github: Path, gitlab: dict[str, Any]
) -> None:
    job = read(github / "pilot-scheduled.yml")["jobs"]["propose-update"]
    assert job["environment"] == "update"
    checkout, *_, last = job["steps"]
    assert checkout["with"] == {"persist-credentials": "false", "fetch-depth": "0"}
    assert list(last["env"]) == ["PILOT_UPDATE_TOKEN"]
    assert [step for step in job["steps"] if "env" in step] == [last]
    assert gitlab["propose-update"]["environment"] == {"name": "update", "action": "access"}
    assert gitlab["propose-update"]["resource_group"] == "update", "two at once would both open a request"
    assert gitlab["propose-update"]["interruptible"] == "false"


def test_what_is_installed_is_audited_each_week_and_where_it_changes(
    github: Path, gitlab: dict[str, Any]
) -> None:
    on = read(github / "pilot-audit.yml")["on"]
    assert set(on) == {"schedule", "workflow_dispatch", "pull_request"}
    pinned = {"harness/constraints.txt", "overrides.txt", "pyproject.toml"}
    assert set(on["pull_request"]["paths"]) == pinned | {".github/**"}
    scheduled, changed = gitlab["audit"]["rules"]
    assert scheduled["if"] == '$CI_PIPELINE_SOURCE == "schedule"'
    assert set(changed["changes"]) == pinned


AUDITOR = """#!/bin/sh
case "$(cat said)" in
found) echo "Name  Version ID"; echo "jinja2 2.0 PYSEC-1"; echo "Found 1 known vulnerability" >&2; exit 1 ;;
away) echo "ERROR: the service did not answer" >&2; exit 1 ;;
unknown) for name in $(grep == "$2" | cut -d= -f1); do
  echo "$name  Dependency not found on PyPI and could not be audited: $name (2.0)"; done
  for name in $(grep @ "$2" | cut -d' ' -f1); do
  echo "$name  URL requirements cannot be pinned to a specific package version"; done ;;
esac
echo "No known vulnerabilities found" >&2
"""


def _audited(pilot: Path, said: str) -> tuple[list[str], Path]:
    """The command that audits, as `make setup` leaves a pilot, and where its programs lie."""
    shutil.copy(Path(__file__).parents[2] / "template" / "Makefile", pilot)
    (pilot / "said").write_text(said)
    programs = pilot / ".venv" / "bin"
    programs.mkdir(parents=True, exist_ok=True)
    for name, text in {
        "pip-audit": AUDITOR,
        "python": "#!/bin/sh\necho jinja2==2.0\necho Acme-Scores==1.0\n",
        "zizmor": f'#!/bin/sh\nexec {BIN / "zizmor"} "$@"\n',
    }.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    return ["make", "-o", "setup", "-o", ".venv/.ready-audit", "audit"], programs


@pytest.mark.parametrize(
    ("said", "code", "told"),
    [
        ("nothing", 0, "No known vulnerability in the 2 packages"),
        ("found", 1, "PYSEC-1"),
        ("away", 3, "so nobody knows"),
        ("unknown", 3, "does not know 2 of the 2 packages that are installed, so nobody knows"),
        ("careless", 1, "careless workflows"),
    ],
)
def test_an_audit_that_could_not_ask_is_no_pass(
    rendered: Callable[..., Path], said: str, code: int, told: str
) -> None:
    """With an auditor that says what it is told to say, and zizmor itself."""
    pilot = rendered(ci="github")
    if said == "careless":
        file = pilot / ".github" / "workflows" / "pilot.yml"
        file.write_text(file.read_text().replace('run: make "$TARGET"', "run: make ${{ github.head_ref }}"))
    command, _ = _audited(pilot, said)
    done = subprocess.run(command, cwd=pilot, capture_output=True, text=True)
    assert (done.returncode == 0) == (code == 0), done.stderr
    assert told in done.stdout + done.stderr
    if code:
        assert f"Error {code}" in done.stderr


def test_packages_of_ones_own_are_left_out_of_an_audit_by_name(rendered: Callable[..., Path]) -> None:
    pilot = rendered(ci="github")
    command, programs = _audited(pilot, "unknown")
    for own, left in (("acme-scores", "1 of the 1"), ("acme", "2 of the 2")):
        done = subprocess.run([*command, f"OWN_PACKAGES={own}"], cwd=pilot, capture_output=True, text=True)
        assert f"does not know {left} packages" in done.stderr
        assert "Error 3" in done.stderr
    # The auditor writes every name in small letters with hyphens.
    (programs / "python").write_text(
        "#!/bin/sh\necho Acme_Scores==1.0\necho acme.rules @ git+ssh://acme.example/rules\necho jinja2==2.0\n"
    )
    for own, left in (("acme-scores acme-rules", "1 of the 1"), ("acme-scores", "2 of the 2")):
        done = subprocess.run([*command, f"OWN_PACKAGES={own}"], cwd=pilot, capture_output=True, text=True)
        assert f"does not know {left} packages" in done.stderr
        assert "Error 3" in done.stderr
    assert "acme.rules  URL requirements" in done.stderr
    (programs / "python").write_text("#!/bin/sh\necho Acme-Scores==1.0\necho jinja2==2.0\n")
    (pilot / "said").write_text("nothing")
    done = subprocess.run([*command, "OWN_PACKAGES=acme-scores"], cwd=pilot, capture_output=True, text=True)
    assert (done.returncode, "in the 1 packages" in done.stdout) == (0, True), done.stderr


def test_secrets_reach_the_job_that_needs_them_alone(github: Path) -> None:
    for name in WORKFLOWS:
        for job, told in read(github / name)["jobs"].items():
            assert set(re.findall(r"secrets\.(\w+)", str(told))) == SECRETS.get(job, set()), job


def test_a_team_has_a_place_for_its_own_jobs(gitlab: dict[str, Any]) -> None:
    (include,) = gitlab["include"]
    assert include == {"local": ".gitlab-ci-team.yml", "rules": [{"exists": [".gitlab-ci-team.yml"]}]}
