"""What is asked of GitHub and GitLab: which requests a branch has, and to open one.

Both are spoken to by their REST interface and not by tools of their own: a plain image of Python has neither,
and GitLab's push options cannot hold the lines of a report.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

from harness.errors import PilotError

TOKEN = "PILOT_UPDATE_TOKEN"
TIMEOUT_S = 30.0
# Leaves room below GitHub's 65,536 characters; GitLab takes more.
MOST_CHARACTERS = 60_000
CUT = "\n\n... and more, which does not fit here. For all of it run `make update`.\n"


@dataclass(frozen=True)
class Proposal:
    """A request as it is to be opened.

    Attributes:
        branch: What is to be merged.
        title: Its title.
        body: What it says, as Markdown.
        draft: Whether somebody has to decide before it is merged.
    """

    branch: str
    title: str
    body: str
    draft: bool

    @property
    def shown(self) -> str:
        """The body, cut where a forge would refuse it for its length."""
        return self.body if len(self.body) <= MOST_CHARACTERS else self.body[:MOST_CHARACTERS] + CUT


@dataclass(frozen=True)
class Request:
    """A request that there is.

    Attributes:
        url: Its page.
        open: Whether it waits to be merged; one that was merged or closed does not.
    """

    url: str
    open: bool


@dataclass(frozen=True)
class Forge(ABC):
    """Where the repository is.

    Attributes:
        api: The address of the REST interface.
        project: The repository, as the interface names it.
        repository: The address that git pushes to.
        account: The name that goes with the token there.
        base: The branch that requests go to.
        token: What lets this job push and open requests.
    """

    api: str
    project: str
    repository: str
    account: str
    base: str
    token: str

    @abstractmethod
    def requests(self, branch: str) -> list[Request]:
        """Every request that the branch has or had."""

    @abstractmethod
    def open(self, proposal: Proposal) -> str:
        """Open a request, and give its page."""

    def _ask(self, method: str, path: str, headers: Mapping[str, str], **more: Any) -> Any:
        try:
            answer = httpx.request(
                method, f"{self.api}{path}", headers=dict(headers), timeout=TIMEOUT_S, **more
            )
        except httpx.HTTPError as error:
            mend = "Check that this job reaches it, and run the job again."
            raise PilotError(f"no answer ({type(error).__name__})", where=self.api, mend=mend) from error
        if answer.is_success:
            try:
                return answer.json()
            except ValueError as error:
                mend = "Check that the address is the forge's own."
                raise PilotError("the answer is no JSON", where=f"{self.api}{path}", mend=mend) from error
        said = " ".join(answer.text.split())[:300]
        raise Declined(answer.status_code, said, where=f"{method} {self.api}{path}")


class Declined(PilotError):
    """The forge said no.

    Attributes:
        status: The HTTP status.
        said: What it said.
    """

    def __init__(self, status: int, said: str, *, where: str) -> None:
        self.status = status
        self.said = said
        mend = f"Give {TOKEN} the rights that the job's comment names, or a token that has not expired."
        super().__init__(f"the answer was {status}: {said}", where=where, mend=mend)


class GitHub(Forge):
    """github.com, and GitHub Enterprise."""

    def requests(self, branch: str) -> list[Request]:
        """Every pull request that the branch has or had."""
        head = f"{self.project.partition('/')[0]}:{branch}"
        found = self._call("GET", "", params={"head": head, "state": "all", "per_page": "100"})
        return [Request(each["html_url"], each["state"] == "open") for each in found]

    def open(self, proposal: Proposal) -> str:
        """Open a pull request."""
        wanted = {
            "title": proposal.title,
            "head": proposal.branch,
            "base": self.base,
            "body": proposal.shown,
            "draft": proposal.draft,
        }
        try:
            opened = self._call("POST", "", json=wanted)
        except Declined as error:
            # Private repositories of some plans have no drafts.
            if not (proposal.draft and error.status == 422 and "draft" in error.said.lower()):
                raise
            opened = self._call(
                "POST", "", json={**wanted, "title": f"Draft: {proposal.title}", "draft": False}
            )
        return str(opened["html_url"])

    def _call(self, method: str, path: str, **more: Any) -> Any:
        headers = {"Authorization": f"Bearer {self.token}", "Accept": "application/vnd.github+json"}
        return self._ask(method, f"/repos/{self.project}/pulls{path}", headers, **more)


class GitLab(Forge):
    """gitlab.com, and instances of GitLab."""

    def requests(self, branch: str) -> list[Request]:
        """Every merge request that the branch has or had."""
        found = self._call("GET", params={"source_branch": branch, "state": "all", "per_page": "100"})
        return [Request(each["web_url"], each["state"] in ("opened", "locked")) for each in found]

    def open(self, proposal: Proposal) -> str:
        """Open a merge request."""
        wanted = {
            "title": f"Draft: {proposal.title}" if proposal.draft else proposal.title,
            "source_branch": proposal.branch,
            "target_branch": self.base,
            "description": proposal.shown,
            "remove_source_branch": True,
        }
        return str(self._call("POST", json=wanted)["web_url"])

    def _call(self, method: str, **more: Any) -> Any:
        path = f"/projects/{quote(self.project, safe='')}/merge_requests"
        return self._ask(method, path, {"PRIVATE-TOKEN": self.token}, **more)


def here(environment: Mapping[str, str]) -> Forge:
    """The forge whose job this is, as it tells its jobs.

    Raises:
        PilotError: This is no job of either, or there is no token.
    """
    if environment.get("GITHUB_ACTIONS") == "true":
        forge: type[Forge] = GitHub
        server, project = environment["GITHUB_SERVER_URL"], environment["GITHUB_REPOSITORY"]
        where = (environment["GITHUB_API_URL"], project, f"{server}/{project}.git", "x-access-token")
        base = environment["GITHUB_REF_NAME"]
    elif environment.get("GITLAB_CI") == "true":
        forge, project = GitLab, environment["CI_PROJECT_ID"]
        where = (environment["CI_API_V4_URL"], project, f"{environment['CI_PROJECT_URL']}.git", "oauth2")
        base = environment["CI_COMMIT_REF_NAME"]
    else:
        raise PilotError(
            "this is no job of GitHub's or GitLab's, so there is nowhere to open a request",
            where="GITHUB_ACTIONS, GITLAB_CI",
            mend="Run `make update`: it leaves the branch here, for you to push.",
        )
    token = environment.get(TOKEN, "")
    if not token:
        raise PilotError(
            "there is no token, and the job's own can do neither what is needed",
            where=TOKEN,
            mend="Put one with the rights that the job's comment names into the environment `update`.",
        )
    return forge(*where, base=base, token=token)
