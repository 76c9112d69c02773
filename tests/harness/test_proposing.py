"""`make propose-update`: a request for each version, once; with git and HTTP as they are, on this machine."""

from __future__ import annotations

import http.server
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

import harness
from harness.errors import PilotError
from harness.proposing import here
from repositories import commit, git

BRANCH, TOKEN = "template/0.2.0", "a-token-that-may-push"
NEWER = {"before": "0.1.0", "after": "0.2.0", "up_to_date": False, "branch": BRANCH, "needs_somebody": []}
CURRENT = {"before": "0.2.0", "after": "0.2.0", "up_to_date": True, "branch": None, "needs_somebody": []}
REPORT = '# pilot-template 0.1.0 → 0.2.0\n\nTwo lines;\nand "quotes" `$(date)`.\n'
STAND_IN = """#!/bin/sh
# Stands for `pilot update`: its contract, and what it was called with.
echo "$@" > called.txt; env > environment.txt
[ -z "{branch}" ] || git branch --force {branch} update
mkdir -p var; cat report.md > "$(echo "$@" | sed 's/.*--report //')"
cat told.json
exit {code}
"""


@dataclass
class Recorded:
    """A forge that remembers what it was asked."""

    url: str
    there: list[dict[str, Any]] = field(default_factory=list)
    asked: list[tuple[str, str, dict[str, Any], dict[str, str]]] = field(default_factory=list)
    refuses: list[tuple[int, str]] = field(default_factory=list)

    @property
    def opened(self) -> list[dict[str, Any]]:
        return [body for method, _, body, _ in self.asked if method == "POST"]


@pytest.fixture
def forge() -> Iterator[Recorded]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            length = int(self.headers.get("content-length", 0))
            body = json.loads(self.rfile.read(length) or b"{}")
            recorded.asked.append((self.command, self.path, body, dict(self.headers)))
            status, said = 200, json.dumps(recorded.there)
            if self.command == "POST":
                status, said = 201, json.dumps({"html_url": "page/1", "web_url": "page/1"})
                if recorded.refuses:
                    status, said = recorded.refuses.pop(0)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(said.encode())

        do_GET = do_POST = answer

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    recorded = Recorded(f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield recorded
    server.shutdown()
    server.server_close()


@dataclass
class Checkout:
    """A pilot's repository as CI has it, the repository that it came from, and what CI says of itself."""

    root: Path
    origin: Path
    environment: dict[str, str]

    def says(self, told: Any, code: int = 0) -> None:
        """What `pilot update` will say."""
        script = self.root / ".venv" / "bin" / "pilot"
        script.parent.mkdir(parents=True, exist_ok=True)
        branch = told.get("branch") or "" if isinstance(told, dict) else ""
        script.write_text(STAND_IN.format(branch=branch, code=code))
        script.chmod(0o755)
        (self.root / "told.json").write_text(told if isinstance(told, str) else json.dumps(told))

    def propose(self, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "harness.proposing"],
            cwd=self.root,
            env=self.environment | more,
            capture_output=True,
            text=True,
            timeout=60,
        )

    @property
    def pushed(self) -> str:
        """The commit that the branch has at the forge; empty where it has none."""
        return git(self.origin, "for-each-ref", "--format=%(objectname)", f"refs/heads/{BRANCH}").strip()


@pytest.fixture(params=["github", "gitlab"])
def checkout(request: pytest.FixtureRequest, tmp_path: Path, forge: Recorded) -> Checkout:
    origin = tmp_path / "team" / "pilot.git"
    git(tmp_path, "init", "--quiet", "--bare", "--initial-branch=main", str(origin))
    root = tmp_path / "checkout"
    git(tmp_path, "clone", "--quiet", str(origin), str(root))
    (root / "README.md").write_text("Ours.\n")
    commit(root, "Start")
    git(root, "push", "--quiet", "origin", "HEAD:main")
    git(root, "checkout", "--quiet", "-b", "update")
    commit(root, "Update pilot-template from 0.1.0 to 0.2.0")
    git(root, "checkout", "--quiet", "-")
    (root / "report.md").write_text(REPORT)
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    where = tmp_path.as_uri()
    ci = {
        "github": {
            "GITHUB_ACTIONS": "true",
            "GITHUB_API_URL": forge.url,
            "GITHUB_SERVER_URL": where,
            "GITHUB_REPOSITORY": "team/pilot",
            "GITHUB_REF_NAME": "main",
        },
        "gitlab": {
            "GITLAB_CI": "true",
            "CI_API_V4_URL": forge.url,
            "CI_PROJECT_ID": "42",
            "CI_PROJECT_URL": f"{where}/team/pilot",
            "CI_COMMIT_REF_NAME": "main",
        },
    }[request.param]
    source = str(Path(harness.__file__).parents[1])
    environment = {**kept, **ci, "PYTHONPATH": source, "PILOT_UPDATE_TOKEN": TOKEN, "NO_PROXY": "*"}
    return Checkout(root, origin, environment)


def state(checkout: Checkout, *, open_: bool) -> dict[str, Any]:
    """A request as the forge tells of it."""
    if "GITLAB_CI" in checkout.environment:
        return {"web_url": "page/0", "state": "opened" if open_ else "closed"}
    return {"html_url": "page/0", "state": "open" if open_ else "closed"}


def test_a_newer_version_is_pushed_and_proposed_with_the_report(checkout: Checkout, forge: Recorded) -> None:
    checkout.says(NEWER)
    done = checkout.propose()
    assert (done.returncode, done.stdout) == (0, "0.2.0 is proposed: page/1\n"), done.stderr
    assert checkout.pushed == git(checkout.root, "rev-parse", "update").strip()
    assert (checkout.root / "called.txt").read_text() == "update --json --report var/update.md\n"
    (opened,) = forge.opened
    assert opened["title"] == "Update pilot-template from 0.1.0 to 0.2.0"
    if "GITLAB_CI" in checkout.environment:
        assert (opened["source_branch"], opened["target_branch"]) == (BRANCH, "main")
        assert opened["description"] == REPORT
        assert all(headers["private-token"] == TOKEN for *_, headers in lowered(forge))
        assert all(urlsplit(path).path == "/projects/42/merge_requests" for _, path, *_ in forge.asked)
        asked = {"source_branch": [BRANCH], "state": ["all"], "per_page": ["100"]}
    else:
        assert (opened["head"], opened["base"], opened["draft"]) == (BRANCH, "main", False)
        assert opened["body"] == REPORT
        assert all(headers["authorization"] == f"Bearer {TOKEN}" for *_, headers in lowered(forge))
        assert all(urlsplit(path).path == "/repos/team/pilot/pulls" for _, path, *_ in forge.asked)
        asked = {"head": [f"team:{BRANCH}"], "state": ["all"], "per_page": ["100"]}
    assert parse_qs(urlsplit(forge.asked[0][1]).query) == asked


def lowered(forge: Recorded) -> list[tuple[Any, ...]]:
    return [
        (*rest, {name.lower(): value for name, value in headers.items()}) for *rest, headers in forge.asked
    ]


def test_nothing_newer_asks_for_nothing(checkout: Checkout, forge: Recorded) -> None:
    checkout.says(CURRENT)
    done = checkout.propose()
    assert (done.returncode, done.stdout) == (0, "The pilot is of 0.2.0, and there is nothing newer.\n")
    assert (forge.asked, checkout.pushed) == ([], "")


def test_where_somebody_has_to_decide_it_is_a_draft_that_says_so(checkout: Checkout, forge: Recorded) -> None:
    checkout.says(NEWER | {"needs_somebody": ["Makefile: ..."]}, code=1)
    done = checkout.propose()
    assert (done.returncode, done.stdout) == (0, "0.2.0 is proposed as a draft: page/1\n"), done.stderr
    (opened,) = forge.opened
    body = opened.get("body") or opened["description"]
    assert body.startswith("**Somebody has to decide before this is merged")
    assert body.endswith(REPORT)
    assert opened.get("draft") or opened["title"].startswith("Draft: ")


@pytest.mark.parametrize("code", [2, 3])
def test_an_update_that_was_refused_fails_the_job(checkout: Checkout, forge: Recorded, code: int) -> None:
    checkout.says(NEWER, code=code)
    assert checkout.propose().returncode == code
    assert (forge.asked, checkout.pushed) == ([], "")


def test_a_second_run_leaves_the_open_request_and_what_was_pushed_to_it(
    checkout: Checkout, forge: Recorded
) -> None:
    checkout.says(NEWER)
    checkout.propose()
    git(checkout.root, "checkout", "--quiet", BRANCH)
    git(checkout.root, "commit", "--quiet", "--allow-empty", "--message", "Somebody decided")
    git(checkout.root, "push", "--quiet", "origin", BRANCH)
    theirs = checkout.pushed
    git(checkout.root, "checkout", "--quiet", "-")
    forge.there = [state(checkout, open_=False), state(checkout, open_=True)]
    done = checkout.propose()
    assert (done.returncode, done.stdout) == (0, "0.2.0 is proposed already: page/0\n")
    assert len(forge.opened) == 1
    assert checkout.pushed == theirs


def test_one_that_was_closed_is_not_opened_again_before_its_branch_is_gone(
    checkout: Checkout, forge: Recorded
) -> None:
    checkout.says(NEWER)
    checkout.propose()
    forge.there = [state(checkout, open_=False)]
    done = checkout.propose()
    assert done.returncode == 0
    assert "was proposed and closed: page/0 To have it again, delete the branch template/0.2.0" in done.stdout
    assert len(forge.opened) == 1
    git(checkout.origin, "branch", "--quiet", "-D", BRANCH)
    assert checkout.propose().stdout == "0.2.0 is proposed: page/1\n"
    assert len(forge.opened) == 2


def test_a_job_that_ended_between_push_and_request_is_made_good(checkout: Checkout, forge: Recorded) -> None:
    checkout.says(NEWER)
    forge.refuses = [(503, "later")]
    done = checkout.propose()
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "the answer was 503: later" in done.stderr
    assert checkout.pushed
    assert checkout.propose().stdout == "0.2.0 is proposed: page/1\n"


def test_where_there_are_no_drafts_the_title_says_it(checkout: Checkout, forge: Recorded) -> None:
    if "GITLAB_CI" in checkout.environment:
        pytest.skip("GitLab's drafts are their titles")
    checkout.says(NEWER, code=1)
    forge.refuses = [(422, '{"message": "Draft pull requests are not supported in this repository."}')]
    assert checkout.propose().returncode == 0
    assert [each["draft"] for each in forge.opened] == [True, False]
    assert forge.opened[1]["title"].startswith("Draft: ")


def test_a_long_report_is_cut_and_not_refused(checkout: Checkout, forge: Recorded) -> None:
    checkout.says(NEWER)
    (checkout.root / "report.md").write_text("x" * 70_000)
    assert checkout.propose().returncode == 0
    body = forge.opened[0].get("body") or forge.opened[0]["description"]
    assert len(body) < 65_536
    assert body.endswith("For all of it run `make update`.\n")


def test_no_token_reaches_the_templates_code_or_a_message(checkout: Checkout, forge: Recorded) -> None:
    checkout.says(NEWER)
    done = checkout.propose(GITHUB_SERVER_URL="/nowhere", CI_PROJECT_URL="/nowhere/x")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "git ls-remote failed" in done.stderr
    assert TOKEN not in done.stdout + done.stderr
    assert TOKEN not in (checkout.root / "environment.txt").read_text()
    assert "PATH=" in (checkout.root / "environment.txt").read_text()
    assert forge.asked == []


def test_git_is_given_the_token_by_the_helper_and_not_by_the_command(
    checkout: Checkout, forge: Recorded, tmp_path: Path
) -> None:
    """A git that asks its helper as git does for a server that wants a password."""
    there = tmp_path / "bin"
    there.mkdir()
    real = subprocess.run(["which", "git"], capture_output=True, text=True, check=True).stdout.strip()
    asks = f'printf "protocol=https\\nhost=h\\n\\n" | {real} "$1" "$2" "$3" "$4" "$5" "$6" credential fill'
    (there / "git").write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/commands.txt\n'
        f'[ "$1" != -c ] || {asks} >> {tmp_path}/filled.txt\n'
        f'exec {real} "$@"\n'
    )
    (there / "git").chmod(0o755)
    checkout.says(NEWER)
    done = checkout.propose(PATH=f"{there}:{os.environ['PATH']}")
    assert done.returncode == 0, done.stderr
    account = "oauth2" if "GITLAB_CI" in checkout.environment else "x-access-token"
    filled = (tmp_path / "filled.txt").read_text()
    assert f"username={account}\npassword={TOKEN}\n" in filled
    assert TOKEN not in (tmp_path / "commands.txt").read_text()


@pytest.mark.parametrize("told", ["", "no JSON", "[]", {"up_to_date": False, "branch": None}])
def test_what_cannot_be_understood_is_no_success(checkout: Checkout, forge: Recorded, told: Any) -> None:
    checkout.says(told)
    done = checkout.propose()
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "said nothing that can be understood" in done.stderr
    assert forge.asked == []


def test_a_forge_that_does_not_answer_is_told(checkout: Checkout) -> None:
    checkout.says(NEWER)
    done = checkout.propose(GITHUB_API_URL="http://127.0.0.1:9", CI_API_V4_URL="http://127.0.0.1:9")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert re.match(r"make propose-update: http://127.0.0.1:9: no answer \(ConnectError\)", done.stderr)


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "this is no job of GitHub's or GitLab's"),
        ({"GITHUB_ACTIONS": "true"}, "there is no token"),
        ({"GITLAB_CI": "true", "PILOT_UPDATE_TOKEN": ""}, "there is no token"),
    ],
)
def test_elsewhere_and_without_a_token_it_says_what_to_do(environment: dict[str, str], said: str) -> None:
    names = ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_API_URL", "GITHUB_REF_NAME")
    more = ("CI_API_V4_URL", "CI_PROJECT_ID", "CI_PROJECT_URL", "CI_COMMIT_REF_NAME")
    told = {name: "x" for name in (*names, *more)}
    with pytest.raises(PilotError, match=said):
        here(told | environment)
