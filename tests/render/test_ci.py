"""The CI that a pilot gets: valid, careful, and made of the Makefile's targets."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

BIN = Path(sys.executable).parent
WORKFLOWS = ("pilot.yml", "pilot-scheduled.yml")


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
# Who may see what: each secret belongs to an environment that one job is in.
SECRETS = {
    "monitor": {"PILOT_STORE__URL", "PILOT_TRACKING__URI", "PILOT_ALERTS__TARGET"},
    "propose-update": {"PILOT_UPDATE_TOKEN"},
}


def test_github_calls_the_makefile_and_nothing_else(github: Path) -> None:
    assert {command for _, command in github_commands(github, "pilot.yml")} == CHECKS
    called = list(github_commands(github, "pilot-scheduled.yml"))
    assert {job: {command for each, command in called if each == job} for job, _ in called} == SCHEDULED


def test_gitlab_calls_the_same(gitlab: dict[str, Any]) -> None:
    called = list(gitlab_commands(gitlab))
    by_job = {job: {command for each, command in called if each == job} for job, _ in called}
    assert by_job == {"check": CHECKS, **SCHEDULED}


def test_what_ci_calls_is_in_the_makefile(pilot: Path) -> None:
    targets = re.findall(r"^([a-z-]+):.*## ", (pilot / "Makefile").read_text(encoding="utf-8"), re.M)
    called = CHECKS.union(*SCHEDULED.values())
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


def test_secrets_reach_the_job_that_needs_them_alone(github: Path) -> None:
    for name in WORKFLOWS:
        for job, told in read(github / name)["jobs"].items():
            assert set(re.findall(r"secrets\.(\w+)", str(told))) == SECRETS.get(job, set()), job


def test_a_team_has_a_place_for_its_own_jobs(gitlab: dict[str, Any]) -> None:
    (include,) = gitlab["include"]
    assert include == {"local": ".gitlab-ci-team.yml", "rules": [{"exists": [".gitlab-ci-team.yml"]}]}
