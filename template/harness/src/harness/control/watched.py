"""A file that is read on every question, and parsed only when it changed.

There is no thread and no timer, so a fork, a pre-loaded worker and a restored file with an old modification
time are all seen. Parsing is saved while the file's inode, both its times and its size stay the same.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")
Key = tuple[int, int, int, int]

SETTLED_AFTER_NS = 100_000_000


class Watched(Generic[T]):
    """A file of the control folder, as it is now.

    Args:
        file: The file.
        parse: Makes something of its bytes, also of bytes that cannot be trusted.
        unreadable: Makes something of an error on reading it.
    """

    def __init__(self, file: Path, parse: Callable[[bytes], T], unreadable: Callable[[OSError], T]) -> None:
        self._file = str(file)
        self._parse = parse
        self._unreadable = unreadable
        self._cached: tuple[Key, T] | None = None

    def read(self) -> T | None:
        """What the file says at this moment; None when there is none. Never raises."""
        try:
            found = os.stat(self._file)
            key = (found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)
            if self._cached is not None and self._cached[0] == key:
                return self._cached[1]
            text = Path(self._file).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            return self._unreadable(error)
        parsed = self._parse(text)
        # A file system's clock may tick every few milliseconds, and two changes within one tick look alike.
        settled = time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) > SETTLED_AFTER_NS
        self._cached = (key, parsed) if settled else None
        return parsed
