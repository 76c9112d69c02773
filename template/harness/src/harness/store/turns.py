"""Whose turn it is to write: one queue for the processes of a host, in the order in which they came.

SQLite lets one process write at a time and the others ask again after a sleep, so that whoever sleeps at the
wrong moments waits for seconds. Here each takes a number and waits for the lower ones. A number is a byte of
a file that its holder has locked: the kernel unlocks it when the holder dies, however that happens, whether
it was writing or still waiting. It is the ticket lock of Mellor-Crummey and Scott (1991) with locks of the
kernel in place of a counter of those who are done, which nobody would count on after a kill.

Nothing depends on it but fairness: SQLite's own lock keeps writers apart also where this one is missing.
"""

from __future__ import annotations

import fcntl
import os
import struct
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue

# Locks of an open file, not of a process: two stores of one process wait for each other as well. Elsewhere
# than on Linux they are missing, or described to the kernel in another form.
_TRY, _WAIT = (fcntl.F_OFD_SETLK, fcntl.F_OFD_SETLKW) if sys.platform == "linux" else (None, None)
_NUMBER = struct.Struct("<q")
# The byte that guards the counter lies before the numbers' bytes.
_COUNTER, _FIRST = 0, 1
_ASK_AGAIN_S = 0.0002


class NotInTime(Exception):
    """The others were not done within the time that was given."""


class Turns:
    """One queue of writers.

    Args:
        file: The queue's file, made where it is missing; None for writers of this process only.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file if _TRY is not None else None
        self._start_anew()
        _queues.add(self)

    def _start_anew(self) -> None:
        self._here = threading.Lock()
        self._open: _Open | None = None

    def forked(self) -> None:
        """Let go of what is the parent's: its numbers would stay locked for as long as this process lives."""
        if self._open is not None:
            self._open.close()
        self._start_anew()

    @contextmanager
    def turn(self, within_s: float) -> Iterator[None]:
        """Wait for one's turn, and have it until the end of the block.

        Where the queue's file cannot be written, the turn is one among this process's writers only.

        Raises:
            NotInTime: It did not come within ``within_s`` seconds.
        """
        until = time.monotonic() + within_s
        if not self._here.acquire(timeout=within_s):
            raise NotInTime
        try:
            queue, number = self._number(until)
            try:
                if queue is not None:
                    queue.wait(number, until)
                yield
            finally:
                if queue is not None:
                    queue.leave(number)
        finally:
            self._here.release()

    def close(self) -> None:
        """Close the file; the next turn opens it again."""
        with self._here:
            if self._open is not None:
                self._open.close()
            self._open = None

    def _number(self, until: float) -> tuple[_Open | None, int]:
        if self._file is None:
            return None, 0
        try:
            queue = self._opened(self._file)
            return queue, queue.take(until)
        except OSError:
            return None, 0

    def _opened(self, file: Path) -> _Open:
        if self._open is not None and not self._open.stands_at(file):
            self._open.close()
            self._open = None
        if self._open is None:
            self._open = _Open(file)
        return self._open


class _Open:
    """The queue's file, open."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._number = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._waiter: _Waiter | None = None

    def stands_at(self, file: Path) -> bool:
        try:
            return os.path.samestat(os.fstat(self._number), file.stat())
        except FileNotFoundError:
            return False

    def take(self, until: float) -> int:
        """The next number, with its byte locked."""
        while not self._tried(fcntl.F_WRLCK, _COUNTER, 1):
            if time.monotonic() > until:
                raise NotInTime
            time.sleep(_ASK_AGAIN_S)
        try:
            read = os.pread(self._number, _NUMBER.size, 0)
            number = max(_FIRST, _NUMBER.unpack(read)[0]) if len(read) == _NUMBER.size else _FIRST
            # Whoever died before it had counted on has left its number free; a file cut short repeats some.
            while not self._tried(fcntl.F_WRLCK, number, 1):
                number += 1
            os.pwrite(self._number, _NUMBER.pack(number + 1), 0)
            return number
        finally:
            self._unlock(_COUNTER, 1)

    def wait(self, number: int, until: float) -> None:
        """Wait until no lower number is locked."""
        if number == _FIRST or self._tried(fcntl.F_RDLCK, _FIRST, number - _FIRST):
            return
        if self._waiter is None:
            self._waiter = _Waiter(os.open(self._file, os.O_RDWR | os.O_CLOEXEC))
        if not self._waiter.waited(number, until):
            raise NotInTime

    def leave(self, number: int) -> None:
        """Let go of the number, and of the lower ones that were asked for."""
        self._unlock(_FIRST, number)

    def close(self) -> None:
        if self._waiter is not None:
            self._waiter.end()
        os.close(self._number)

    def _tried(self, kind: int, start: int, length: int) -> bool:
        try:
            _change(self._number, _TRY, kind, start, length)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def _unlock(self, start: int, length: int) -> None:
        _change(self._number, _TRY, fcntl.F_UNLCK, start, length)


class _Waiter:
    """A thread that sleeps in the kernel until a number's turn comes: such a sleep has no time limit.

    It has an opening of the file of its own: what it is granted too late is let go of without a word.
    """

    def __init__(self, opened: int) -> None:
        self._opened = opened
        self._wanted: SimpleQueue[tuple[int, threading.Event] | None] = SimpleQueue()
        threading.Thread(target=self._run, name="turns", daemon=True).start()

    def waited(self, number: int, until: float) -> bool:
        come = threading.Event()
        self._wanted.put((number, come))
        return come.wait(max(0.0, until - time.monotonic()))

    def end(self) -> None:
        self._wanted.put(None)

    def _run(self) -> None:
        while (wanted := self._wanted.get()) is not None:
            number, come = wanted
            _change(self._opened, _WAIT, fcntl.F_RDLCK, _FIRST, number - _FIRST)
            _change(self._opened, _TRY, fcntl.F_UNLCK, _FIRST, number - _FIRST)
            come.set()
        os.close(self._opened)


def _change(opened: int, how: int | None, kind: int, start: int, length: int) -> None:
    assert how is not None  # without such locks no file is ever opened
    fcntl.fcntl(opened, how, struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0))


_queues: weakref.WeakSet[Turns] = weakref.WeakSet()


def _forked() -> None:
    for queue in list(_queues):
        queue.forked()


os.register_at_fork(after_in_child=_forked)
