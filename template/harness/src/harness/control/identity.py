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
    """

    name: str
    uid: int
    token: bool = False

    def other_than(self, another: Actor) -> bool:
        """Whether the two are certainly two people.

        One account may have two names, and one name may be given to two accounts: both have to differ.
        Several people may share an account, and then their tokens tell them apart.
        """
        if self.name == another.name:
            return False
        return (self.token and another.token) or self.uid != another.uid


def account() -> Actor:
    """The account that this process runs as."""
    return Actor(actor(), os.getuid())


def actor() -> str:
    """The account name of the process's real user id, or ``uid N`` for an account without a name."""
    uid = os.getuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
