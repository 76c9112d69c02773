"""Unleash, asked with an entity tag: 200 and 304 prove that the answer is the present one, nothing else does.

Unleash's own client tells neither: it raises nothing on a wrong token, says nothing when a poll found no
change, and goes on with what it had.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from harness.control.remote import AHEAD_S
from harness.errors import PilotError
from harness.settings import Settings
from harness.sync.answers import ASK_WITHIN_S, Answer, Refused, Unreachable, in_time
from harness.sync.strategy import share

TOKEN, ADMIN_TOKEN = "PILOT_REMOTE__TOKEN", "PILOT_REMOTE__ADMIN_TOKEN"
# A project's flags take kilobytes; a service that sends without an end is not to fill the memory.
LARGEST_BYTES = 16_000_000


class Unleash:
    """One flag of an Unleash server, in one environment.

    Args:
        settings: The pilot's settings, with a table [remote].
        within_s: How long an answer may take.
    """

    def __init__(self, settings: Settings, within_s: float = ASK_WITHIN_S) -> None:
        remote = settings.remote
        if remote is None:
            raise PilotError("no flag service is named", where="pilot.toml [remote]", mend="Write the table.")
        self._remote = remote
        self._within_s = within_s
        self.flag = remote.flag or settings.pilot.package
        self.named = f"unleash {_shown(remote.url)}"
        self._known: tuple[str, Mapping[str, Any]] | None = None

    def ask(self, group: str) -> Answer:
        """Ask for the flag, and read its share; see ``Source``."""
        token = self._remote.token.get_secret_value()
        if not token:
            raise Refused("there is no token", where=TOKEN, mend="Set it to a backend token of that server.")
        headers = {"Authorization": token, "Cache-Control": "no-cache", "Accept": "application/json"}
        if self._known is not None:
            headers["If-None-Match"] = self._known[0]
        answer, body = self._exchange("GET", "/api/client/features", headers, {"namePrefix": self.flag})
        self._present(answer)
        if answer.status_code == 304 and self._known is not None:
            tag, document = self._known
        elif answer.status_code == 200:
            tag, document = answer.headers.get("etag", ""), self._document(body)
            self._known = (tag, document) if tag else None
        else:
            self._known = None
            raise self._no(answer, TOKEN)
        return self._read(document, group, tag)

    def stop(self, reason: str) -> None:
        """Switch the flag off in its environment; see ``Source``. Unleash keeps no reason."""
        remote = self._remote
        token = remote.admin_token.get_secret_value()
        if not token:
            raise Refused("there is no token that may switch it off", where=ADMIN_TOKEN, mend="Set one.")
        if not remote.environment:
            where = "pilot.toml [remote] environment"
            raise Refused("the flag's environment is not named", where=where, mend="Name it.")
        path = (
            f"/api/admin/projects/{remote.project}/features/{self.flag}/environments/{remote.environment}/off"
        )
        answer, _ = self._exchange("POST", path, {"Authorization": token}, {})
        if not answer.is_success:
            raise self._no(answer, ADMIN_TOKEN)

    def _exchange(
        self, method: str, path: str, headers: dict[str, str], query: dict[str, str]
    ) -> tuple[httpx.Response, bytes]:
        async def exchange() -> tuple[httpx.Response, bytes]:
            # Without trust_env no proxy and no .netrc of whoever starts it comes in between.
            async with (
                httpx.AsyncClient(trust_env=False, timeout=self._within_s, follow_redirects=False) as client,
                client.stream(method, self._remote.url + path, headers=headers, params=query) as answer,
            ):
                body = bytearray()
                async for part in answer.aiter_bytes():
                    body += part
                    if len(body) > LARGEST_BYTES:
                        raise self._nothing(f"it sent more than {LARGEST_BYTES:,} bytes")
                return answer, bytes(body)

        try:
            return in_time(exchange(), within_s=self._within_s, where=self.named)
        except (httpx.HTTPError, httpx.InvalidURL, httpx.DecodingError) as error:
            raise self._nothing(f"it cannot be asked: {error or type(error).__name__}") from error

    def _present(self, answer: httpx.Response) -> None:
        """Hold the answer to be one of now: a cache in between says 200 as well."""
        now = time.time()
        try:
            dated = parsedate_to_datetime(answer.headers["date"]).timestamp()
            age = float(answer.headers.get("age", 0))
        except (KeyError, ValueError) as error:
            raise self._nothing("its answer does not say when it was given") from error
        off = max(abs(now - dated), age)
        if off > AHEAD_S:
            raise self._nothing(
                f"its answer is {off:.0f} s away from this host's clock",
                "A cache in between answers, or one of the two clocks is wrong.",
            )

    def _document(self, body: bytes) -> Mapping[str, Any]:
        try:
            document = json.loads(body)
            features = document["features"]
            if not isinstance(features, list) or not all(isinstance(each["name"], str) for each in features):
                raise TypeError
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise self._nothing(
                "what it sent is no list of flags", "Is [remote] url that of Unleash?"
            ) from error
        found: Mapping[str, Any] = document
        return found

    def _read(self, document: Mapping[str, Any], group: str, tag: str) -> Answer:
        query = document.get("query")
        environment = query.get("environment") if isinstance(query, dict) else None
        if self._remote.environment and environment != self._remote.environment:
            raise Refused(
                f"the token is for the environment '{environment}', and pilot.toml names "
                f"'{self._remote.environment}'",
                where=TOKEN,
                mend="Use a token of that environment, or correct [remote] environment.",
            )
        proof = f"etag {tag}" if tag else "status 200"
        where = f"{self.named}, flag {self.flag}"
        found = [each for each in document["features"] if each["name"] == self.flag]
        if len(found) != 1:
            note = f"{where}: there is no such flag, so no model decides. Create it there."
            return Answer(0, True, proof, note)
        enabled = found[0].get("enabled")
        if not isinstance(enabled, bool):
            raise Refused(
                "it does not say whether the flag is on", where=where, mend="Report it to its owner."
            )
        if not enabled:
            return Answer(0, True, proof)
        return Answer(share(found[0], group=group, where=where), False, proof)

    def _no(self, answer: httpx.Response, variable: str) -> PilotError:
        code = answer.status_code
        if code in (401, 403):
            mend = "Set it to a token of that server that has the right, and is not expired."
            return Refused(f"the token is refused ({code})", where=f"{self.named}: {variable}", mend=mend)
        if code == 404:
            mend = "Correct [remote] url, project, flag or environment."
            return Refused("it knows no such address or flag (404)", where=self.named, mend=mend)
        if code == 304 or code >= 500 or code == 429:
            return self._nothing(f"it answers {code}")
        return Refused(f"it answers {code}", where=self.named, mend="Is [remote] url that of Unleash itself?")

    def _nothing(self, what: str, mend: str = "See whether the flag service runs.") -> Unreachable:
        return Unreachable(what, where=self.named, mend=mend)


def _shown(url: str) -> str:
    parts = httpx.URL(url)
    return f"{parts.scheme}://{parts.netloc.decode()}{parts.path}".rstrip("/")
