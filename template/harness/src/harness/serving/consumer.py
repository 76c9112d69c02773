"""The consumer of the decisions: whether it may be reached from here, and one delivery to it."""

from __future__ import annotations

import hashlib
import hmac
import json
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum

import httpx

from harness import __version__
from harness.address import loopback
from harness.errors import PilotError
from harness.serving import followed, tracing
from harness.serving.followed import Followed
from harness.serving.logs import failed
from harness.store import Parcel

KEY, TIMESTAMP, SIGNATURE = "Idempotency-Key", "Pilot-Timestamp", "Pilot-Signature"
SUCCESS = range(200, 300)
REDIRECT = range(300, 400)
IN_TROUBLE = {408, 425, 429, *range(500, 600)}
ANSWER_AT_MOST = 64 * 1024


def check_target(url: str, stage: str) -> None:
    """Hold deliveries of the sandbox, and of a stage that is not known, to this machine.

    Raises:
        PilotError: The address is none, or leads elsewhere.
    """
    where = "pilot.toml [downstream] url"
    try:
        host = httpx.URL(url).host
    except httpx.InvalidURL as error:
        raise PilotError(f"not an address ({error})", where=where, mend="Write http://host/path.") from error
    if stage in ("sandbox", "unknown") and not loopback(host):
        raise PilotError(
            f"the sandbox delivers to this machine only, not to {host}",
            where=where,
            mend='Use an address on 127.0.0.1, or "" to deliver to nobody.',
        )


def sign(secret: str, timestamp: str, body: bytes) -> str:
    """The signature of a delivery: HMAC-SHA256 over ``timestamp``, a full stop and the body, in hexadecimal.

    A consumer computes the same from what it received, compares in constant time, and refuses a timestamp
    that is more than a few minutes old.
    """
    return "v1=" + hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


class Concerns(Enum):
    """What a failed delivery says about the other ones."""

    THIS_ONE = "the consumer is there and refuses it"
    PERHAPS_ALL = "the consumer is in trouble, with this one or with all"
    EVERYTHING = "nobody is there"


@dataclass(frozen=True)
class Problem:
    """Why a delivery did not succeed.

    Attributes:
        what: What happened, without a word of what was delivered or answered.
        concerns: What it says about the other deliveries.
    """

    what: str
    concerns: Concerns = Concerns.PERHAPS_ALL


class Consumer:
    """Posts decisions.

    Args:
        url: Where to.
        secret: What they are signed with; empty leaves them unsigned.
        connect_s: How long a connection may take, in seconds.
        answer_s: How long the consumer may be silent, in seconds.
    """

    def __init__(self, url: str, secret: str, *, connect_s: float, answer_s: float) -> None:
        self.url = url
        # Whether it is reached without leaving this machine.
        self.here = loopback(httpx.URL(url).host)
        self._secret = secret
        self._answer_s = answer_s
        self._client = httpx.Client(
            timeout=httpx.Timeout(answer_s, connect=connect_s),
            trust_env=False,
            follow_redirects=False,
            verify=ssl.create_default_context(),
        )

    def post(self, parcel: Parcel) -> Problem | None:
        """Deliver one decision; gives what went wrong, or None. Never raises."""
        by = followed.recall(parcel.decision_id)
        with tracing.span("delivery", parent=by.traceparent, kind="client") as span:
            problem = self._post(parcel, Followed(by.request_id, span.traceparent or by.traceparent))
            span.say(decision_id=parcel.decision_id, delivered=problem is None)
            return problem

    def _post(self, parcel: Parcel, by: Followed) -> Problem | None:
        try:
            body = json.dumps(parcel.content, ensure_ascii=False, allow_nan=False).encode()
            headers = {**self._headers(parcel.decision_id, body), **by.headers()}
            with self._client.stream("POST", self.url, content=body, headers=headers) as answer:
                if answer.status_code in SUCCESS:
                    self._read_past(answer)
                    return None
                return _answered(answer.status_code)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            what = f"the consumer cannot be reached ({type(error).__name__})"
            return Problem(what, Concerns.EVERYTHING)
        except httpx.TimeoutException:
            return Problem("the consumer does not answer in time")
        except httpx.HTTPError as error:
            return Problem(f"the delivery broke off ({type(error).__name__})")
        except Exception as error:
            failed("a decision cannot be delivered", error)
            return Problem(f"it cannot be delivered ({type(error).__name__})", Concerns.THIS_ONE)

    def close(self) -> None:
        """Close every connection."""
        self._client.close()

    def _headers(self, decision_id: str, body: bytes) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "User-Agent": f"pilot/{__version__}", KEY: decision_id}
        if self._secret:
            headers[TIMESTAMP] = str(int(time.time()))
            headers[SIGNATURE] = sign(self._secret, headers[TIMESTAMP], body)
        return headers

    def _read_past(self, answer: httpx.Response) -> None:
        # What it says does not matter; read to its end, the connection serves the next delivery as well.
        until = time.monotonic() + self._answer_s
        size = 0
        with suppress(httpx.HTTPError):
            for part in answer.iter_raw():
                size += len(part)
                if size > ANSWER_AT_MOST or time.monotonic() > until:
                    break


def _answered(status: int) -> Problem:
    more = ", and redirects are not followed" if status in REDIRECT else ""
    concerns = Concerns.PERHAPS_ALL if status in IN_TROUBLE else Concerns.THIS_ONE
    return Problem(f"the consumer answers {status}{more}", concerns)
