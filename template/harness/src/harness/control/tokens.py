"""tokens.json: who may call the service, and for what.

A token is 256 random bits behind the prefix ``pilot_``, shown once when it is issued. Kept is its SHA-256:
there is nothing in 256 random bits that guessing could begin with, so a slow hash, made for passwords that
people choose, would protect nothing and cost every request. The file has one writer, the local ``pilot``, and
the service reads it on every request; when it is missing or cannot be trusted, nobody is let in.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, get_args

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from harness.control import audit
from harness.control.identity import actor
from harness.control.sealed import Damaged, seal, unseal
from harness.control.state import replace, writing
from harness.control.watched import Watched
from harness.errors import PilotError

TOKENS = "tokens.json"
PREFIX = "pilot_"
# What a secret scanner looks for.
PATTERN = PREFIX + r"[0-9a-f]{64}"
NAME = r"^[a-z0-9][a-z0-9._-]{0,62}$"

Scope = Literal["decide", "outcomes", "feedback", "read", "operate", "approve"]
SCOPES: tuple[Scope, ...] = get_args(Scope)


class Token(BaseModel):
    """What is kept of a token.

    Attributes:
        name: What people and logs call it; unique, and the service or person that holds it.
        sha256: The SHA-256 of the whole token, in hexadecimal digits.
        scopes: What its holder may do.
        issued_at: When it was issued, UTC.
        expires_at: From when on it lets nobody in, UTC.
        actor: Who issued it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=NAME)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    scopes: tuple[Scope, ...] = Field(min_length=1)
    issued_at: AwareDatetime
    expires_at: AwareDatetime
    actor: str

    def expired(self) -> bool:
        """Whether it lets nobody in any more."""
        return datetime.now(UTC) >= self.expires_at


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    tokens: tuple[Token, ...] = ()


@dataclass(frozen=True)
class TokensUnreadable:
    """tokens.json is damaged or cannot be read; never a reason to let anybody in.

    Attributes:
        why: What is wrong with it, with its path.
    """

    why: str


class _Found:
    """What the file says, once for all the questions until it changes."""

    def __init__(self, tokens: tuple[Token, ...] | TokensUnreadable) -> None:
        self.tokens = tokens
        known = () if isinstance(tokens, TokensUnreadable) else tokens
        self.by_hash = {token.sha256: token for token in known}


class Tokens:
    """The tokens in force, read anew on every question."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / TOKENS
        self._watched: Watched[_Found] = Watched(
            self._file,
            lambda text: _Found(parse_tokens(text, where=str(self._file))),
            lambda error: _Found(TokensUnreadable(f"{self._file}: {error.strerror}")),
        )

    def read(self) -> tuple[Token, ...] | TokensUnreadable:
        """All that were issued and not revoked, expired ones included. Never raises."""
        found = self._watched.read()
        return () if found is None else found.tokens

    def find(self, presented: str) -> Token | None:
        """What is kept of a presented token, expired or not; None when it is not known.

        It is looked up by its hash. How long that takes tells nothing: nobody can choose what a hash begins
        with, and so come nearer to one that is kept with each attempt.
        """
        found = self._watched.read()
        return None if found is None else found.by_hash.get(_digest(presented))


def issue(folder: Path, *, name: str, scopes: Sequence[str], lasts: timedelta) -> tuple[str, Token]:
    """Make a token. It is in force for the next request, and nobody can read it again.

    Args:
        folder: The control folder.
        name: What logs call it.
        scopes: What its holder may do.
        lasts: How long it is valid.

    Returns:
        The token itself, to be shown once, and what is kept of it.

    Raises:
        PilotError: The name is taken, something about it cannot be, or it cannot be kept or audited.
    """
    _no_token(name)
    for scope in scopes:
        if scope not in SCOPES:
            mend = f"Use {', '.join(SCOPES)}, each after a --scope of its own."
            raise PilotError(f"there is no scope '{scope}'", where="token scopes", mend=mend)
    who = actor()
    presented = PREFIX + secrets.token_hex(32)
    issued_at = datetime.now(UTC)
    token = _checked(
        name=name,
        sha256=_digest(presented),
        scopes=tuple(dict.fromkeys(scopes)),
        issued_at=issued_at,
        expires_at=issued_at + lasts,
        actor=who,
    )
    with writing(folder):
        tokens = _trusted(folder)
        _owned(folder)
        if any(token.name == name for token in tokens):
            raise PilotError(
                f"there is a token called '{name}' already",
                where=str(folder / TOKENS),
                mend=f"Choose another name, or take that one away: `pilot token revoke {name}`.",
            )
        until = token.expires_at.date().isoformat()
        _audited(folder, who, "issue", f"token {name} ({', '.join(token.scopes)}) until {until}")
        _write(folder, (*tokens, token))
    return presented, token


def revoke(folder: Path, *, name: str) -> str:
    """Take a token away: from the next request on it lets nobody in.

    A stop is not held up by a failing audit: the token is gone first.

    Returns:
        What could not be written beside; nothing when all was.

    Raises:
        PilotError: There is no such token, or the file cannot be trusted or written.
    """
    _no_token(name)
    who = actor()
    with writing(folder):
        tokens = _trusted(folder)
        _owned(folder)
        left = tuple(token for token in tokens if token.name != name)
        if len(left) == len(tokens):
            raise PilotError(
                f"there is no token called '{name}'",
                where=str(folder / TOKENS),
                mend="`pilot token list` shows those that there are.",
            )
        _write(folder, left)
        try:
            audit.append(folder, actor=who, action="revoke", reason=f"token {name}", revision=None)
        except OSError as error:
            return f"the line in {audit.AUDIT} ({error.strerror})"
    return ""


def read_tokens(folder: Path) -> tuple[Token, ...]:
    """All tokens that were issued and not revoked, for a person to look at.

    Raises:
        PilotError: The file cannot be read or trusted.
    """
    return _trusted(folder)


def parse_tokens(text: bytes, *, where: str) -> tuple[Token, ...] | TokensUnreadable:
    """Read tokens from the file's bytes."""
    try:
        return unseal(text, _File, where=where).tokens
    except Damaged as error:
        return TokensUnreadable(str(error))


def _no_token(name: str) -> None:
    # Nor is it shown: it may be in force, and what is shown is kept in logs.
    if re.fullmatch(PATTERN, name):
        raise PilotError(
            "that is a token itself, and not its name",
            where="token name",
            mend="`pilot token list` shows the names; it stands in this shell's history now, so revoke it.",
        )


def _checked(**values: object) -> Token:
    try:
        return Token.model_validate(values)
    except ValidationError as error:
        field = error.errors()[0]["loc"][0]
        told = {
            "name": (
                "not a name for a token: small letters, digits, '.', '_' and '-', 63 at most",
                "Name the service that will hold it, such as collections.",
            ),
        }
        what, mend = told.get(str(field), (error.errors()[0]["msg"], "Correct it."))
        raise PilotError(what, where=f"token {field}", mend=mend) from error


def _trusted(folder: Path) -> tuple[Token, ...]:
    found = Tokens(folder).read()
    if isinstance(found, TokensUnreadable):
        raise PilotError(
            f"the tokens cannot be trusted, and nobody is let in meanwhile: {found.why}",
            where=str(folder / TOKENS),
            mend="Restore the file from a backup, or delete it and issue new tokens.",
        )
    return found


def _owned(folder: Path) -> None:
    # The file is for one account only: written by another, the service could not read it.
    owner = folder.stat().st_uid
    if os.geteuid() not in (0, owner):
        raise PilotError(
            "the folder belongs to another account, and only that one may read the tokens in it",
            where=str(folder),
            mend="Run this as the account that the service runs as.",
        )


def _write(folder: Path, tokens: tuple[Token, ...]) -> None:
    content = seal(_File(tokens=tokens).model_dump(mode="json"))
    try:
        replace(folder / TOKENS, content, private=True)
    except OSError as error:
        raise PilotError(
            f"the tokens cannot be written: {error.strerror}",
            where=str(folder / TOKENS),
            mend="Free the disk or make the folder writable; to let nobody in now, delete the file.",
        ) from error


def _audited(folder: Path, who: str, action: str, reason: str) -> None:
    try:
        audit.append(folder, actor=who, action=action, reason=reason, revision=None)
    except OSError as error:
        raise PilotError(
            f"the audit cannot be written, so nothing was changed: {error.strerror}",
            where=str(folder / audit.AUDIT),
            mend="Free the disk or make the file writable.",
        ) from error


def _digest(presented: str) -> str:
    return hashlib.sha256(presented.encode(errors="replace")).hexdigest()
