"""The processes that models' processes are forked from, as the service has them (harness.serving.forkserver).

There is one for each set of libraries, and it serves this whole process. Where somebody has these libraries
imported already (harness.serving.zygote), it is forked from there, which takes no time; else it is started
and imports them itself. After a fork of this process its connections belong to the parent alone, and the
child closes its copies of them.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass

from harness.errors import PilotError
from harness.serving.environment import handed_on
from harness.serving.forkserver import ANSWER, COMMAND, FORK, IGNORED, KILL, SERVE
from harness.serving.logs import log_output
from harness.serving.packaged import Surroundings
from harness.serving.wire import Ended, Late, encode, send

# The harness is to be found where this process found it, however that came about.
START = """import sys
sys.path[:] = sys.argv[3:]
from harness.serving.forkserver import main
main(*map(int, sys.argv[1:3]))"""
LOAD_WITHIN_S = 120.0
# How long to wait for what others are forked from: it may still import, and may have been stopped.
FORKED_WITHIN_S = 10.0
# A batch is small, and threads that share it out wait for each other longer than they compute where every
# processor has something to do. The environment of the service says otherwise where somebody wants it.
ALONE = {"POLARS_MAX_THREADS": "1"}


@dataclass(frozen=True)
class Zygote:
    """A process server that forks others like itself for every process that has this.

    Attributes:
        wanted: What it has imported.
        connection: Where it is told to.
    """

    wanted: Surroundings
    connection: socket.socket


class ProcessServer:
    """A running harness.serving.forkserver.

    Args:
        wanted: What the processes that it forks have in common.
        zygote: What it may be forked from itself.

    Raises:
        PilotError: It cannot be started.
    """

    def __init__(self, wanted: Surroundings, zygote: Zygote | None = None) -> None:
        self._wanted = wanted
        self._lock = threading.Lock()
        self._process, self._control, self._output = _forked_from(zygote, wanted) or _started(wanted)
        threading.Thread(target=log_output, args=[self._output], name="output", daemon=True).start()
        self._control.settimeout(LOAD_WITHIN_S)

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def zygote(self) -> Zygote:
        """It, as what others are forked from."""
        return Zygote(self._wanted, self._control)

    def fork(self) -> tuple[int, socket.socket]:
        """A new process, and the connection to it.

        Raises:
            PilotError: There is none.
        """
        ours, theirs = socket.socketpair()
        try:
            with self._lock:
                socket.send_fds(self._control, [COMMAND.pack(FORK, 0)], [theirs.fileno()])
                answer = self._control.recv(ANSWER.size)
            (pid,) = ANSWER.unpack(answer) if len(answer) == ANSWER.size else (0,)
        except OSError as error:
            ours.close()
            self.end()
            raise _cannot_start(error.strerror or type(error).__name__) from error
        finally:
            theirs.close()
        if not pid:
            ours.close()
            raise _cannot_start("the system gives no further process")
        return pid, ours

    def kill(self, pid: int) -> None:
        """End a process that it forked."""
        # Where it has ended itself, so have they.
        with contextlib.suppress(OSError):
            self._control.sendall(COMMAND.pack(KILL, pid))

    def end(self) -> None:
        """End it, and every process that it forked."""
        self._control.close()
        self._process.kill()
        self._process.wait()

    def forget(self) -> None:
        """Let go of it in a fork, whose server it is not."""
        self._control.close()
        with contextlib.suppress(OSError):  # its thread had read it to its end
            os.close(self._output)
        if isinstance(self._process, _Adopted):
            self._process.forget()
        self._process.returncode = 0  # not this process's child: nothing to wait for


class _Adopted:
    """A process that another one forked, by a descriptor that names no other even when its id is given anew.

    Args:
        pid: Its process id.
        descriptor: What os.pidfd_open gave for it.
    """

    def __init__(self, pid: int, descriptor: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._descriptor = descriptor
        self._lock = threading.Lock()
        os.set_inheritable(descriptor, False)

    def poll(self) -> int | None:
        """None while it runs."""
        return self._ended(0)

    def wait(self) -> int | None:
        """Until it has ended."""
        return self._ended(None)

    def kill(self) -> None:
        """Kill it, unless it has ended."""
        with self._lock, contextlib.suppress(ProcessLookupError):
            if self.returncode is None:
                signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)

    def forget(self) -> None:
        """Let go of it in a fork, whose it is not."""
        if self.returncode is None:
            os.close(self._descriptor)

    def _ended(self, within_ms: int | None) -> int | None:
        with self._lock:
            if self.returncode is None:
                watched = select.poll()
                watched.register(self._descriptor, select.POLLIN)
                if watched.poll(within_ms):
                    os.close(self._descriptor)
                    self.returncode = 0
            return self.returncode


_Running = subprocess.Popen[bytes] | _Adopted


def _forked_from(zygote: Zygote | None, wanted: Surroundings) -> tuple[_Running, socket.socket, int] | None:
    """A server, the connection to it and its output; None where nobody can fork it: then it is started."""
    if zygote is None or zygote.wanted != wanted:
        return None
    control, theirs = socket.socketpair()
    output, theirs_to_write = os.pipe()
    descriptors: list[int] = []
    try:
        try:
            given = [theirs.fileno(), theirs_to_write]
            socket.send_fds(zygote.connection, [COMMAND.pack(SERVE, os.getpid())], given)
        finally:
            theirs.close()
            os.close(theirs_to_write)
        control.settimeout(FORKED_WITHIN_S)
        answer, descriptors, _, _ = socket.recv_fds(control, ANSWER.size, 1)
        if descriptors:
            return _Adopted(ANSWER.unpack(answer)[0], descriptors[0]), control, output
    except OSError:  # it has ended, or hangs
        pass
    fork_from(None)  # who is asked next is not to wait for it again
    control.close()
    os.close(output)
    return None


def _started(wanted: Surroundings) -> tuple[_Running, socket.socket, int]:
    control, theirs = socket.socketpair()
    output, theirs_to_write = os.pipe()
    command = [sys.executable, "-c", START, str(theirs.fileno()), str(os.getpid()), *sys.path]
    # Ctrl-C must find it ignoring the signal already, not on the way to it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, IGNORED)
    try:
        process = subprocess.Popen(
            command,
            env={**ALONE, **handed_on(wanted.variables)},
            stdin=subprocess.DEVNULL,
            stdout=theirs_to_write,
            stderr=theirs_to_write,
            pass_fds=[theirs.fileno()],
        )
    except OSError as error:
        control.close()
        os.close(output)
        raise _cannot_start(error.strerror or "") from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        os.close(theirs_to_write)
    with contextlib.suppress(Ended, Late):
        send(control, encode(asdict(wanted)), time.monotonic() + LOAD_WITHIN_S)
    return process, control, output


def _cannot_start(why: str) -> PilotError:
    return PilotError(
        f"the model's process cannot be started: {why}",
        where="serving",
        mend="See how many processes and how much memory this account may have (ulimit -a).",
    )


_servers: dict[Surroundings, ProcessServer] = {}
_starting = threading.Lock()
_zygote: Zygote | None = None


def fork_from(zygote: Zygote | None) -> None:
    """Have the servers of this process forked from there, where it has what they need."""
    global _zygote
    _zygote = zygote


def process_server(wanted: Surroundings) -> ProcessServer:
    """The server of these surroundings, started where there is none that lives."""
    with _starting:
        server = _servers.get(wanted)
        if server is None or not server.alive:
            server = _servers[wanted] = ProcessServer(wanted, _zygote)
        return server


def pids() -> list[int]:
    """The process of every server of this process that has not ended."""
    return [server.pid for server in list(_servers.values()) if server.alive]


def end_servers() -> None:
    """End every server of this process, and with them every model's process."""
    with _starting:
        while _servers:
            _servers.popitem()[1].end()


def _forked() -> None:
    """In a new fork of this process: let go of what is the parent's."""
    global _starting
    _starting = threading.Lock()  # somebody may have held it
    for server in _servers.values():
        server.forget()
    _servers.clear()


os.register_at_fork(after_in_child=_forked)
