"""Callers whom an identity provider knows: JSON Web Tokens by OpenID Connect, whose keys are fetched beside.

Checked is the signature with one of the issuer's published keys, by an algorithm that pilot.toml allows, and
``iss``, ``aud``, ``exp`` and ``nbf`` (RFC 7519; RFC 8725 says what goes wrong). Whatever a token says of
where its key may be found is not heeded. A request never waits for the network: a thread fetches the keys,
and what it fetched last holds for ``max_stale_s``.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import jwt
from jwt import PyJWK

from harness.control import Scope
from harness.errors import PilotError

if TYPE_CHECKING:
    from harness.serving_settings import Oidc as Rule

MOST_BYTES = 1 << 20
MOST_KEYS = 100
MOST_TOKEN = 8_192
MOST_KNOWN = 4_096
RSA_BITS_AT_LEAST = 2_048
# A token with a key that is not known may be forged, and is no reason to ask the issuer again and again.
UNKNOWN_KEY_EVERY_S = 60.0
AFTER_A_FAILURE_S = 15.0
ANSWER_WITHIN_S = 5.0

log = logging.getLogger("harness.serving")


@dataclass(frozen=True)
class Holder:
    """Who holds a token.

    Attributes:
        name: What logs and the audit call the caller.
        scopes: What it may do.
        expires_at: Until when, seconds since 1970.
    """

    name: str
    scopes: tuple[Scope, ...]
    expires_at: float

    def expired(self) -> bool:
        """Whether the token lets nobody in any more."""
        return time.time() >= self.expires_at


@dataclass(frozen=True)
class _Keys:
    by_id: Mapping[str, PyJWK]
    seen: float
    # Whom they let in. A key that is withdrawn takes them along.
    known: OrderedDict[bytes, Holder] = field(default_factory=OrderedDict)


class Oidc:
    """Knows the tokens of one issuer.

    Args:
        rule: What pilot.toml says.
        fetch: Gives the published keys, as the bytes of a JWKS; whatever it raises is a failed look.
        clock: Seconds that only go on.
    """

    def __init__(
        self, rule: Rule, fetch: Callable[[], bytes], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rule = rule
        self._fetch = fetch
        self._clock = clock
        self._keys: _Keys | None = None
        self._asked = threading.Event()
        self._ended = False
        self._thread: threading.Thread | None = None
        self._early = -UNKNOWN_KEY_EVERY_S
        self._failing = False

    def start(self) -> None:
        """Look at the keys from now on, in a thread of its own."""
        self._thread = threading.Thread(target=self._keep, name="oidc", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread; it is not waited for, because it may be waiting for the network."""
        self._ended = True
        self._asked.set()

    def find(self, presented: str) -> Holder | None:
        """Who holds a token; None when it is not one of the issuer's, or that cannot be known now."""
        keys = self._keys
        if keys is None or self._clock() - keys.seen > self._rule.max_stale_s:
            return None
        digest = hashlib.sha256(presented.encode(errors="replace")).digest()
        held = keys.known.get(digest)
        if held is None:
            held = self._checked(presented, keys)
            if held is not None:
                keys.known[digest] = held
                if len(keys.known) > MOST_KNOWN:
                    keys.known.popitem(last=False)
        return held

    def look(self) -> bool:
        """Look at the keys now, and say whether that succeeded; if not, what was known before holds."""
        try:
            found = _usable(self._fetch())
        except Exception as error:
            if not self._failing:
                log.error("the keys of %s cannot be had: %s", self._rule.issuer, _said(error))
            self._failing = True
            return False
        if self._failing:
            log.info("the keys of %s are there again", self._rule.issuer)
        self._failing = False
        self._keys = _Keys(found, self._clock())
        return True

    def _keep(self) -> None:
        while not self._ended:
            wait_s = self._rule.refresh_s if self.look() else min(AFTER_A_FAILURE_S, self._rule.refresh_s)
            self._asked.wait(wait_s)
            self._asked.clear()

    def _checked(self, presented: str, keys: _Keys) -> Holder | None:
        if len(presented) > MOST_TOKEN:
            return None
        try:
            header = jwt.get_unverified_header(presented)
            key = self._key(header, keys)
            if key is None:
                return None
            claims = jwt.decode(
                presented,
                key,
                algorithms=list(self._rule.algorithms),
                issuer=self._rule.issuer,
                audience=self._rule.audience,
                leeway=self._rule.leeway_s,
                options={"require": ["exp", "iss", "aud"], "verify_signature": True},
            )
            return self._holder(claims)
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError, OverflowError):
            return None

    def _key(self, header: Mapping[str, Any], keys: _Keys) -> PyJWK | None:
        # What a token calls critical has to be understood, and nothing of it is (RFC 7515, 4.1.11).
        if "crit" in header:
            return None
        name = header.get("kid")
        if name is None:
            return next(iter(keys.by_id.values())) if len(keys.by_id) == 1 else None
        key = keys.by_id.get(name) if isinstance(name, str) else None
        if key is None and self._clock() - self._early >= UNKNOWN_KEY_EVERY_S:
            self._early = self._clock()
            self._asked.set()
        return key

    def _holder(self, claims: Mapping[str, Any]) -> Holder:
        said = claims.get(self._rule.scope_claim, ())
        words = said.split() if isinstance(said, str) else [each for each in said if isinstance(each, str)]
        scopes = {scope: None for word in words for scope in self._rule.scopes.get(word, ())}
        name = claims.get(self._rule.name_claim)
        if not isinstance(name, str) or not name:
            raise ValueError("nobody is named")
        # It stands in logs, and whoever issues tokens does not write there.
        readable = re.sub(r"[^A-Za-z0-9._@-]", "_", name)[:63]
        return Holder(f"oidc:{readable}", tuple(scopes), float(claims["exp"]) + self._rule.leeway_s)


def build_oidc(rule: Rule | None, root: Path) -> Oidc | None:
    """What knows the tokens that pilot.toml describes; None where it describes none.

    Args:
        rule: The table [serving.oidc].
        root: The pilot's folder, where a relative path begins.

    Raises:
        PilotError: The file of the keys is not there, or holds none that can be used.
    """
    if rule is None:
        return None
    if rule.jwks_file is None:
        url = rule.jwks_url
        return Oidc(rule, lambda: _fetched(url))
    file = root / rule.jwks_file
    try:
        _usable(file.read_bytes())
    except OSError as error:
        raise _no_keys(file, f"it cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise _no_keys(file, "it holds no public key that can be used") from error
    made = Oidc(rule, file.read_bytes)
    made.look()
    return made


def _no_keys(file: Path, what: str) -> PilotError:
    return PilotError(
        what,
        where=f"pilot.toml [serving.oidc] jwks_file, {file}",
        mend='Put the issuer\'s JWKS there, {"keys": [...]}: RSA keys of 2,048 bits at least, or elliptic '
        "curves.",
    )


def _fetched(url: str) -> bytes:
    content = bytearray()
    # Where an answer redirects to was not configured by anybody.
    with (
        httpx.Client(timeout=ANSWER_WITHIN_S, follow_redirects=False, trust_env=True) as client,
        client.stream("GET", url, headers={"Accept": "application/jwk-set+json, application/json"}) as answer,
    ):
        if answer.status_code != 200:
            raise ValueError(f"the status {answer.status_code}")
        for part in answer.iter_bytes():
            content += part
            if len(content) > MOST_BYTES:
                raise ValueError("more than a set of keys has")
    return bytes(content)


def _usable(content: bytes) -> dict[str, PyJWK]:
    """The keys that sign by a private half; one that is a shared secret would make every reader an issuer."""
    found: dict[str, PyJWK] = {}
    for number, each in enumerate(json.loads(content)["keys"][:MOST_KEYS]):
        if not isinstance(each, dict) or each.get("kty") not in ("RSA", "EC", "OKP"):
            continue
        if each.get("use", "sig") != "sig" or "d" in each:
            continue
        try:
            key = PyJWK(each)
        except jwt.PyJWTError:
            continue  # of a kind that this version does not know
        if getattr(key.key, "key_size", RSA_BITS_AT_LEAST) < RSA_BITS_AT_LEAST and each["kty"] == "RSA":
            continue
        found[str(each.get("kid", f"#{number}"))] = key
    if not found:
        raise ValueError("no public key that can be used")
    return found


def _said(error: Exception) -> str:
    known = isinstance(error, ValueError | OSError | httpx.HTTPError)
    return str(error) if known and str(error) else type(error).__name__
