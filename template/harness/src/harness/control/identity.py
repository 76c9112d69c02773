"""Who is acting: the account that the operating system vouches for, never an environment variable."""

from __future__ import annotations

import os
import pwd


def actor() -> str:
    """The account name of the process's real user id, or ``uid N`` for an account without a name."""
    uid = os.getuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
