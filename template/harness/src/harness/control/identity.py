"""Who is acting: the account that the operating system vouches for, never an environment variable."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass


@dataclass(frozen=True)
class Actor:
    """Somebody who acts.

    Attributes:
        name: The account's name, or ``token NAME`` for the holder of a personal token.
        uid: The process's real user id.
        token: Whether a token says who it is.
        issuer: The account that issued the token; empty without a token, and where it is not known.
    """

    name: str
    uid: int
    token: bool = False
    issuer: str = ""

    def other_than(self, another: Actor) -> bool:
        """Whether the two are certainly two people, as far as accounts and tokens tell.

        One account may have two names, and one name may be given to two accounts: both have to differ.
        Several people may share an account, and then their tokens tell them apart, unless that account could
        have issued itself a second one.
        """
        if self.name == another.name or self._issued(another) or another._issued(self):
            return False
        return (self.token and another.token) or self.uid != another.uid

    def _issued(self, another: Actor) -> bool:
        """Whether the other's token may be of this one's own making."""
        return another.token and another.issuer in ("", named(self.uid))

    def told(self) -> str:
        """Who it is, and who vouches for a token, for the record."""
        return f"{self.name}, issued by {self.issuer or 'nobody known'}" if self.token else self.name


def account() -> Actor:
    """The account that this process runs as."""
    return Actor(actor(), os.getuid())


def actor() -> str:
    """The account name of the process's real user id, or ``uid N`` for an account without a name."""
    return named(os.getuid())


def named(uid: int) -> str:
    """The name of an account, or ``uid N`` for one without a name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
