"""Numbers that the processes of a service share: what one of them is asked for, all have counted.

Each process writes into a file of its own, which is mapped into memory: a count costs a store of 16 bytes
and no system call, and what was counted is there when the process is killed. The file is locked while its
process lives, which tells it from a later process of the same number. Once that ends, whoever reads next adds
its counts to ``ended.json`` and deletes it; its gauges end with it.

The library's own mode for several processes (``PROMETHEUS_MULTIPROC_DIR``) was not taken, but its file format
was: decision 33 says why.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import threading
import uuid
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from prometheus_client.mmap_dict import MmapedDict

from harness.files import whole_file

# Room for some thousand series, all of it taken from the disk at once: a page of a mapped file that the disk
# has no room for ends the process with SIGBUS when it is written.
FILE_BYTES = 1 << 19
ENDED = "ended.json"
LOCK = "lock"
# Names of files that are in ended.json already. A reader may have seen such a file just before it went.
REMEMBERED = 1_000

log = logging.getLogger("harness.serving")


class Series:
    """This process's numbers, and those of its neighbours.

    Where no file can be made they are counted all the same, and only the neighbours do not see them.

    Args:
        folder: Where the files lie, one folder for all processes that count the same things.
        largest: Names of gauges of which the largest counts, and not the sum over the processes.
    """

    def __init__(self, folder: Path, *, largest: frozenset[str] = frozenset()) -> None:
        self._folder = folder
        self._largest = largest
        self._said = False
        self.start_anew()
        _all.add(self)

    def start_anew(self) -> None:
        """Count from nothing, as after a fork: what was counted is the parent's, and so is its file."""
        self._lock = threading.Lock()
        self._values: defaultdict[str, float] = defaultdict(float)
        self._own: _Own | None = None

    def add(self, key: str, by: float = 1.0) -> None:
        """Count."""
        self.add_all([(key, by)])

    def add_all(self, counts: Iterable[tuple[str, float]]) -> None:
        """Count several at once."""
        with self._lock:
            write = None if self._own is None else self._own.write
            for key, by in counts:
                self._values[key] = value = self._values[key] + by
                if write is not None:
                    write(key, value, 0.0)

    def put(self, gauge: str, value: float) -> None:
        """Say how much there is now."""
        with self._lock:
            self._values[gauge] = value
            if self._own is not None:
                self._own.write(gauge, value, 0.0)

    def share(self) -> None:
        """Have the neighbours see the counts: make the file where there is none, or none any more."""
        with self._lock:
            if self._own is not None and self._own.there():
                return
            if self._own is not None:
                self._own.close()
            self._own = None
            try:
                own = _Own(self._folder)
            except OSError as error:
                if not self._said:
                    log.warning(
                        "what this process counts is not shared: %s: %s", self._folder, error.strerror
                    )
                self._said = True
                return
            for key, value in self._values.items():
                own.write(key, value, 0.0)
            self._own, self._said = own, False

    def totals(self) -> dict[str, float]:
        """Every number of every process, those that ended included; and no gauge of those."""
        with self._lock:
            own = self._own.file.name if self._own is not None else ""
            found = [(own, dict(self._values))]
        alive, over = self._others(own)
        # Read after the files: what was in one of them and is gone by now is in there.
        ended, known = self._ended()
        found += [(name, read) for name, read in (*alive.items(), *over.items()) if name not in known]
        total = defaultdict(float, ended)
        for name, read in found:
            for key, value in read.items():
                if not is_gauge(key):
                    total[key] += value
                elif name not in over and _named(key) in self._largest:
                    total[key] = max(total[key], value)
                elif name not in over:
                    total[key] += value
        self._put_away(over)
        return dict(total)

    def close(self) -> None:
        """Count no more for others to see; what was counted is added to that of those that ended."""
        with self._lock:
            if self._own is not None:
                self._own.close()
                self._values.clear()
            self._own = None

    def _others(self, own: str) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
        """What lies in the files of those that live, and of those that do not, by the file's name."""
        alive: dict[str, dict[str, float]] = {}
        over: dict[str, dict[str, float]] = {}
        with suppress(OSError):
            for file in sorted(self._folder.glob("*.db")):
                if file.name == own:
                    continue
                # In this order: one that ends in between is taken for alive, and put away by the next reader.
                with suppress(OSError):
                    of = over if _has_ended(file) else alive
                    of[file.name] = _read(file)
        return alive, over

    def _ended(self) -> tuple[dict[str, float], list[str]]:
        try:
            found = json.loads((self._folder / ENDED).read_bytes())
            series = {str(key): float(value) for key, value in found["series"].items()}
            return series, [str(name) for name in found["files"]]
        except FileNotFoundError:
            return {}, []
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning(
                "what ended processes counted is lost: %s: %s", self._folder / ENDED, type(error).__name__
            )
            return {}, []

    def _put_away(self, over: Mapping[str, Mapping[str, float]]) -> None:
        if not over:
            return
        with suppress(OSError), _alone(self._folder / LOCK) as first:
            if not first:
                return
            ended, known = self._ended()  # of before; another may have put some of them away meanwhile
            for name, read in over.items():
                if name not in known:
                    known.append(name)
                    for key, value in read.items():
                        if not is_gauge(key):
                            ended[key] = ended.get(key, 0.0) + value
            # First the sum with the names of what is in it: a crash after this has nothing counted twice.
            with whole_file(self._folder / ENDED) as beside:
                beside.write_text(json.dumps({"series": ended, "files": known[-REMEMBERED:]}))
            for name in over:
                (self._folder / name).unlink(missing_ok=True)
            self._clear_up()

    def _clear_up(self) -> None:
        """Delete what a crash left unfinished, and the folders of those that counted other things."""
        for unfinished in self._folder.glob("*.new"):
            if _has_ended(unfinished):
                unfinished.unlink(missing_ok=True)
        for other in self._folder.parent.iterdir():
            if other != self._folder and other.is_dir() and all(map(_has_ended, other.glob("*.db"))):
                shutil.rmtree(other, ignore_errors=True)


_all: weakref.WeakSet[Series] = weakref.WeakSet()


def _forked() -> None:
    for each in list(_all):
        each.start_anew()


os.register_at_fork(after_in_child=_forked)


def key(name: str, *labels: str) -> str:
    """How a number is called in the files."""
    return json.dumps([name, *labels], ensure_ascii=False)


def gauge(name: str, *labels: str) -> str:
    """The same for one that says how much there is now, and ends with its process."""
    return "=" + key(name, *labels)


def is_gauge(called: str) -> bool:
    """Whether it ends with its process."""
    return called.startswith("=")


def parts(called: str) -> list[str]:
    """The name and the labels of what is called so."""
    found: list[str] = json.loads(called.removeprefix("="))
    return found


def _named(called: str) -> str:
    return parts(called)[0]


class _Own:
    """This process's file, which nobody else writes.

    Raises:
        OSError: There is no room for it, or no right to make it.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{os.getpid()}-{uuid.uuid4().hex[:12]}"
        new = folder / f"{name}.new"
        self.file = folder / f"{name}.db"
        try:
            self._held: IO[bytes] = new.open("w+b")
            fcntl.flock(self._held, fcntl.LOCK_EX)
            os.posix_fallocate(self._held.fileno(), 0, FILE_BYTES)
            self._values: Any = MmapedDict(str(new))  # type: ignore[no-untyped-call]
            # Takes what a number is called, its value and its time, of which there is none here.
            self.write: Callable[[str, float, float], None] = self._values.write_value
            new.rename(self.file)  # only now can anybody see it, and it is locked
        except OSError:
            new.unlink(missing_ok=True)
            raise

    def there(self) -> bool:
        """Whether it still lies where others look for it."""
        try:
            return os.path.samestat(os.fstat(self._held.fileno()), self.file.stat())
        except OSError:
            return False

    def close(self) -> None:
        self._values.close()
        self._held.close()


def _read(file: Path) -> dict[str, float]:
    try:
        read = MmapedDict.read_all_values_from_file(str(file))  # type: ignore[no-untyped-call]
        return {called: value for called, value, _, _ in read}
    except OSError:
        raise
    except Exception as error:  # cut short, or written over by somebody
        log.warning("what a process counted cannot be read: %s: %s", file, type(error).__name__)
        return {}


def _has_ended(file: Path) -> bool:
    with file.open("rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@contextmanager
def _alone(file: Path) -> Iterator[bool]:
    with file.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
