"""Who may call: a bearer token with the scope that an endpoint asks for.

An endpoint says what it asks for in one word, ``dependencies=[requires("outcomes")]``, on an application
whose routes are ``Guarded``. The caller is checked before a byte of the body is read.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Request, Response, Security
from fastapi.params import Form
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from harness.control import Control, Scope, StateUnreadable, Token, Tokens, TokensUnreadable
from harness.control.identity import Actor
from harness.control.rights import refuse
from harness.control.tokens import PREFIX
from harness.serving.door import TooMany, answers
from harness.serving.rates import Rates
from harness.serving.strict import strictly

if TYPE_CHECKING:
    from harness.serving.oidc import Holder, Oidc

log = logging.getLogger("harness.serving")

# What acts on the control state; an attempt at it by somebody who may not is kept in the audit.
ON_RECORD: tuple[Scope, ...] = ("operate", "approve")
# A stop is never refused for how often it is asked for.
UNLIMITED: tuple[Scope, ...] = ("operate",)
# Of one token in one process; the service's log has every attempt.
RECORD_EVERY_S = 60.0

_bearer = HTTPBearer(
    scheme_name="token",
    bearerFormat="pilot_ and 64 hexadecimal digits",
    description="A token that `pilot token issue` made.",
    auto_error=False,
)


class Refused(Exception):
    """The caller may not do this.

    Attributes:
        status: 401 without a valid token, 403 without the scope.
        scope: The scope that was asked for.
        given: Whether a token was presented at all.
        name: The token's name, where it is one of ours.
        of: What was asked for, where it is one of ours.
    """

    def __init__(self, status: int, scope: Scope, *, given: bool, name: str = "", of: str = "") -> None:
        self.status = status
        self.scope = scope
        self.given = given
        self.name = name
        self.of = of
        super().__init__(f"{status} for want of {scope}")


@dataclass(frozen=True)
class Caller:
    """Who calls.

    Attributes:
        name: The token's name; empty for a caller without one in the open sandbox.
    """

    name: str


class Seldom:
    """Says of each name that it is due, and not again for a while.

    Args:
        every_s: Seconds from one time to the next.
    """

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._last: dict[str, float] = {}

    def due(self, name: str) -> bool:
        """Whether it is; then it is not for the next while. There are as many names as there are tokens."""
        now = time.monotonic()
        if now - self._last.get(name, -math.inf) < self._every_s:
            return False
        self._last[name] = now
        return True


class Access:
    """Lets callers in.

    Args:
        control: What says which stage the pilot is in.
        open_in_sandbox: Whether the sandbox answers callers without a token. Nothing opens another stage.
        oidc: What knows the tokens of an identity provider; None where there is none.
        rates: How many requests each caller has; None for no limit.
    """

    def __init__(
        self, control: Control, *, open_in_sandbox: bool, oidc: Oidc | None = None, rates: Rates | None = None
    ) -> None:
        self.folder = control.folder
        self.oidc = oidc
        self.rates = rates
        self._control = control
        self._tokens = Tokens(control.folder)
        self._open_in_sandbox = open_in_sandbox
        self.on_record = Seldom(RECORD_EVERY_S)

    def check(self, authorization: str | None, scope: Scope, *, of: str) -> Caller:
        """Let a caller in.

        Args:
            authorization: The header of that name; None when there is none.
            scope: What the caller has to be allowed.
            of: The endpoint, for the log.

        Raises:
            Refused: The caller has no valid token, or one without the scope.
        """
        if authorization is None:
            if self._open():
                return Caller("")
            log.warning("refused %s: no token", of)
            raise Refused(401, scope, given=False)
        kind, _, presented = authorization.partition(" ")
        token = self._found(presented.strip()) if kind.lower() == "bearer" else None
        if token is None:
            log.warning("refused %s: %s", of, self._why_unknown())
            raise Refused(401, scope, given=True)
        if token.expired():
            log.warning("refused %s: the token %s has expired", of, token.name)
            raise Refused(401, scope, given=True)
        if scope not in token.scopes:
            log.warning("refused %s: the token %s has not the scope %s", of, token.name, scope)
            raise Refused(403, scope, given=True, name=token.name, of=of)
        return Caller(token.name)

    def knows(self, authorization: str | None) -> bool:
        """Whether a caller is somebody who may be told more than that the service is there."""
        if authorization is None:
            return self._open()
        kind, _, presented = authorization.partition(" ")
        token = self._found(presented.strip()) if kind.lower() == "bearer" else None
        return token is not None and not token.expired()

    def _found(self, presented: str) -> Token | Holder | None:
        if self.oidc is not None and not presented.startswith(PREFIX):
            return self.oidc.find(presented)
        return self._tokens.find(presented)

    def _open(self) -> bool:
        if not self._open_in_sandbox:
            return False
        try:
            state = self._control.state()
        except StateUnreadable:
            return False
        # A stage that is not known is not the sandbox: a state that is deleted opens nothing.
        return state is not None and state.stage == "sandbox"

    def _why_unknown(self) -> str:
        found = self._tokens.read()
        if isinstance(found, TokensUnreadable):
            return f"nobody is let in, the tokens cannot be trusted: {found.why}"
        return "a token that is not known"


def requires(scope: Scope, *, most_bytes: int = 0) -> Any:
    """The dependency of an endpoint that only callers with this scope may use; it gives the ``Caller``.

    Args:
        scope: The scope.
        most_bytes: How long a body may be here, where the service's limit is lower; 0 for that one.
    """
    return Security(_Required(scope, most_bytes), scopes=[scope])


class _Required:
    def __init__(self, scope: Scope, most_bytes: int) -> None:
        self.scope = scope
        self.most_bytes = most_bytes

    async def __call__(
        self, request: Request, _shown: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
    ) -> Caller:
        # Checked again, so that an endpoint is closed also on a route of another kind.
        return _check(request, request.app.state.access, self.scope)


class Guarded(APIRoute):
    """A route whose caller is checked before its body is read: no stranger's body is parsed, or kept.

    Then the caller's requests are counted, and the body is read strictly (harness.serving.strict). An
    application says in ``state.most_bytes`` how long a body may be.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        required = self._required()
        if required:
            limited = all(each.scope not in UNLIMITED for each in required)
            declared = {**answers(body=self.body_field is not None, limited=limited), **self.responses}
            super().__init__(path, endpoint, **{**options, "responses": declared})

    def _required(self) -> list[_Required]:
        found = (each.call for each in self.dependant.dependencies)
        return [call for call in found if isinstance(call, _Required)]

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The route's handler behind the check."""
        handle = super().get_route_handler()
        required = self._required()
        scopes = [each.scope for each in required]
        limited = bool(scopes) and not any(scope in UNLIMITED for scope in scopes)
        of_its_own = max((each.most_bytes for each in required), default=0)
        reads = self.body_field is not None and not isinstance(self.body_field.field_info, Form)

        async def checked(request: Request) -> Response:
            state, caller = request.app.state, Caller("")
            access: Access = state.access
            for scope in scopes:
                caller = _check(request, access, scope)
            rates = access.rates if limited else None
            headers = None if rates is None else _counted(request, rates, caller)
            if reads:
                request = await strictly(request, max(of_its_own, state.most_bytes))
            response = await handle(request)
            if headers is not None:
                response.headers.update(headers)
            return response

        return checked


def _counted(request: Request, rates: Rates, caller: Caller) -> dict[str, str]:
    """Count a request; raises TooMany. A caller without a name is an address."""
    client = request.client
    left = rates.take(caller.name or f"address {client.host if client else ''}")
    if not left.allowed:
        log.warning("refused %s: %s has had its requests", request.url.path, caller.name or "an address")
        raise TooMany(left)
    return left.headers


def header(request: Request, name: bytes) -> str | None:
    """A header's value, the first where there are several; None where it was not sent.

    Args:
        request: The request.
        name: The header's, in small letters.
    """
    for each, value in request.scope["headers"]:
        if each == name:
            return str(value, "latin-1")
    return None


def _check(request: Request, access: Access, scope: Scope) -> Caller:
    # The route's own path, which nobody outside has written.
    route = request.scope["route"]
    of = f"{request.method} {route.path}"
    return access.check(header(request, b"authorization"), scope, of=of)


async def refused(request: Request, error: Exception) -> JSONResponse:
    """The answer to a refused caller. It is the same for an unknown, an expired and a revoked token."""
    assert isinstance(error, Refused)
    access: Access = request.app.state.access
    # Only whom a token names, and not each time: a stranger, or a caller in a loop, could fill the disk.
    if error.name and error.scope in ON_RECORD and access.on_record.due(error.name):
        who = Actor(f"token {error.name}", os.getuid(), token=True)
        told = f"{error.of}: it has not the scope {error.scope}"
        await asyncio.to_thread(refuse, access.folder, who, told)
    if error.status == 403:
        code, detail = "forbidden", f"The token may not do this: it has not the scope {error.scope}."
        challenge = f'Bearer realm="pilot", error="insufficient_scope", scope="{error.scope}"'
    else:
        code, detail = "unauthenticated", "Send a valid token: Authorization: Bearer pilot_..."
        challenge = 'Bearer realm="pilot"' + (', error="invalid_token"' if error.given else "")
    return JSONResponse(
        {"error": code, "detail": detail}, status_code=error.status, headers={"WWW-Authenticate": challenge}
    )
