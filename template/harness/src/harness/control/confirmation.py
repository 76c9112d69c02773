"""Whether a stop was heard: every process that serves is asked, each at its own address.

Asking a service at its common address would ask whichever of its workers takes the call. Where nobody was
there to be asked, nothing is confirmed: a service that could leave no note of itself would not be missed.
"""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from harness.control.readers import Reader, live

# How long all of them together may take; they read the files on every request.
WITHIN_S = 5.0
EACH_S = 1.0
AGAIN_AFTER_S = 0.05
AT_ONCE = 32
MOST_BYTES = 64 * 1024


@dataclass(frozen=True)
class Word:
    """What one process that serves says that it sees.

    Attributes:
        reader: The process.
        heard: Whether it answered at all.
        stopped: Whether it sees a stop.
        revision: The state's revision that it sees; 0 without a readable state.
        under_way: How many decisions of its may still be a model's.
        last: When it last answered with a model's decision, ISO 8601, UTC; None when it never has.
    """

    reader: Reader
    heard: bool = False
    stopped: bool = False
    revision: int = 0
    under_way: int = 0
    last: str | None = None

    @property
    def confirmed(self) -> bool:
        """Whether no decision by a model comes from it any more."""
        return self.heard and self.stopped and self.under_way == 0

    def document(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "pid": self.reader.pid or None,
            "url": self.reader.url,
            "address": self.reader.address,
            "confirmed": self.confirmed,
            "revision": self.revision,
            "under_way": self.under_way,
            "last_model_decision": self.last,
            "doubt": self.reader.doubt or None,
        }


def ask(reader: Reader, *, timeout_s: float = EACH_S) -> Word:
    """What a process sees right now. One that does not answer in time was not heard."""
    if not _askable(reader):
        return Word(reader)
    try:
        said = _by_address(reader, timeout_s) if reader.address else _by_url(reader.url, timeout_s)
        return _word(reader, said)
    except Exception:  # whatever a stranger at that address answers, it is no confirmation
        return Word(reader)


def every_word(root: Path, *, stop: Callable[[Path], object], within_s: float = WITHIN_S) -> list[Word]:
    """Ask every process that serves until all have confirmed the stop, or the time is over.

    A process that appears meanwhile is asked too: it looks again until nobody new is there.

    Args:
        root: The pilot's folder.
        stop: Called for each folder that one of them reads, before it is asked: it is stopped where it looks.
        within_s: Seconds for all of it.

    Returns:
        The last word of each process that may be alive, confirmed or not.
    """
    deadline = time.monotonic() + within_s
    words: dict[Reader, Word] = {}
    stopped: set[str] = set()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        while True:
            readers = live(root)
            for folder in sorted({each.folder for each in readers if _here(each)} - stopped):
                stop(Path(folder))
                stopped.add(folder)
            words = {reader: word for reader, word in words.items() if reader in readers}
            askable = [each for each in readers if _askable(each)]
            waiting = [each for each in askable if each not in words or not words[each].confirmed]
            if not waiting or time.monotonic() > deadline:
                return [words.get(reader, Word(reader)) for reader in readers]
            words |= {word.reader: word for word in pool.map(ask, waiting)}
            if not all(words[reader].confirmed for reader in waiting):
                time.sleep(AGAIN_AFTER_S)


def verdict(words: list[Word], *, own: int | None = None) -> bool | None:
    """Whether the stop is confirmed: by all, not by all, or None where that cannot be known.

    Args:
        words: What the processes said.
        own: The process that asks, where it serves itself: without its own word, notes are missing.
    """
    if not all(word.confirmed for word in words):
        return False
    if not words or (own is not None and own not in [word.reader.pid for word in words]):
        return None
    return True


def last_decision(words: list[Word]) -> str | None:
    """When any of them last answered with a model's decision."""
    return max((word.last for word in words if word.last), default=None)


def _here(reader: Reader) -> bool:
    # A path that another host or container has noted may be none here, and one is not made for it.
    return bool(reader.folder) and (not reader.elsewhere or Path(reader.folder).is_dir())


def _askable(reader: Reader) -> bool:
    # What another host or container has noted is no address of this one.
    return bool(reader.address or reader.url) and not reader.elsewhere


def _word(reader: Reader, said: dict[str, Any]) -> Word:
    revision, under_way, last = said["revision"], said.get("under_way", 0), said.get("last_model_decision")
    if type(revision) is not int or type(under_way) is not int:
        raise ValueError("no numbers")
    if last is not None:
        datetime.fromisoformat(last)  # or what tells it to a person would fail
    return Word(reader, True, said["stopped"] is True, revision, under_way, last)


def _by_address(reader: Reader, timeout_s: float) -> dict[str, Any]:
    host, _, port = reader.address.rpartition(":")
    deadline = time.monotonic() + timeout_s
    content = b""
    with socket.create_connection((host, int(port)), timeout=timeout_s) as connection:
        while part := connection.recv(4096):
            content += part
            if len(content) > MOST_BYTES:
                raise ValueError("too long to be an answer")
            connection.settimeout(max(0.001, deadline - time.monotonic()))
    said: dict[str, Any] = json.loads(content)
    if said["pid"] != reader.pid:  # another program has got the port
        raise ValueError("not that process")
    return said


def _by_url(url: str, timeout_s: float) -> dict[str, Any]:
    # A service of an earlier release: it had one process, and no address besides.
    parts = urlsplit(url)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)
    if parts.scheme == "https":
        # Whoever answers at that port of this host is asked what it sees, and told nothing.
        unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
        connection = HTTPSConnection(parts.hostname or "", parts.port, timeout=timeout_s, context=unverified)
    try:
        connection.request("GET", "/health")
        said: dict[str, Any] = json.loads(connection.getresponse().read(MOST_BYTES))
        return said
    finally:
        connection.close()
