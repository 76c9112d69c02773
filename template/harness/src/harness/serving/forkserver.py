"""The process that has a model's libraries imported, and forks the processes that models run in.

It imports and never uses: threads of OpenMP or Polars would not come along into a fork. It holds nothing of
the service's but the connection to it, and ends with it, and what it forked ends with it.

Commands are five bytes: a letter and a number. ``F`` comes with a connection, which the new process gets, and
is answered by the new process's id; ``K`` ends the process of that id.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import os
import select
import signal
import socket
import struct
import sys
import warnings
from collections.abc import Sequence

from harness.pilot import importing_without
from harness.serving.wire import Ended, Malformed, receive

COMMAND = struct.Struct("!cI")
FORK, KILL = b"F", b"K"
ANSWER = struct.Struct("!I")
# A terminal sends Ctrl-C to every process, and a service manager its SIGTERM: the service has calls under way
# then and is not to lose their model. What ends it and its processes is the end of the service.
IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LOOK_S = 1.0
PR_SET_PDEATHSIG = 1


def main(control: int, parent: int) -> None:
    """Import, then fork on command until the service is gone.

    Args:
        control: The descriptor of the connection to the service.
        parent: The service's process id.
    """
    ignore()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, IGNORED)  # they were held up meanwhile
    connection = socket.socket(fileno=control)
    try:
        wanted = receive(connection, None)
        connection.settimeout(None)
        prepare(wanted["modules"], hidden=wanted["hidden"], blocked=wanted["blocked"])
        ignore()  # Polars, for one, puts a handler of its own in place
        _Server(connection, parent).run()
    except (Ended, Malformed, ConnectionError):  # the service is gone, perhaps before it read an answer
        pass
    os._exit(0)


def ignore() -> None:
    """Leave the end to the end of the service."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)


def prepare(modules: Sequence[str], *, hidden: Sequence[str], blocked: Sequence[str]) -> None:
    """Import what can be imported; what cannot fails again, and is told, when the model is loaded."""
    with importing_without(*hidden):
        for name in modules:
            with contextlib.suppress(BaseException):
                importlib.import_module(name)
    for name in blocked:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]
    # What is there now stays: a collection in a fork would touch, and so copy, every page of it.
    gc.collect()
    gc.freeze()
    # Libraries have threads by now, and those of OpenBLAS are the only ones; it restarts them in a fork.
    warnings.filterwarnings("ignore", message=".*multi-threaded.*fork", category=DeprecationWarning)


class _Server:
    def __init__(self, control: socket.socket, parent: int) -> None:
        self._control = control
        self._parent = parent
        self._children: set[int] = set()
        self._woken, waking = os.pipe()
        for end in (self._woken, waking):
            os.set_blocking(end, False)
        self._waking = waking
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.set_wakeup_fd(waking)

    def run(self) -> None:
        watched = select.poll()
        watched.register(self._control, select.POLLIN)
        watched.register(self._woken, select.POLLIN)
        try:
            # The connection alone would not tell where a fork of the service holds its other end.
            while os.getppid() == self._parent:
                ready = {descriptor for descriptor, _ in watched.poll(LOOK_S * 1000)}
                self._reap()
                if self._control.fileno() in ready and not self._obey():
                    return
        finally:
            for child in self._children:
                os.kill(child, signal.SIGKILL)

    def _obey(self) -> bool:
        command, connections, _, _ = socket.recv_fds(self._control, COMMAND.size, 1)
        if len(command) != COMMAND.size:
            return False
        letter, number = COMMAND.unpack(command)
        if letter == FORK and connections:
            child = self._fork(connections[0])
            os.close(connections[0])
            self._control.sendall(ANSWER.pack(child))
        elif letter == KILL and number in self._children:
            # Not yet reaped, so the number is still that process's.
            os.kill(number, signal.SIGKILL)
        return True

    def _fork(self, connection: int) -> int:
        server = os.getpid()
        try:
            child = os.fork()
        except OSError:
            return 0
        if child == 0:
            self._become_host(connection, server)
        self._children.add(child)
        return child

    def _become_host(self, connection: int, server: int) -> None:
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for descriptor in (self._woken, self._waking):
                os.close(descriptor)
            self._control.close()
            end_with_parent(server)
            from harness.serving import hosted

            hosted.run(socket.socket(fileno=connection))
            code = 0
        finally:
            with contextlib.suppress(BaseException):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._woken, 4096)
        for child in list(self._children):
            if os.waitpid(child, os.WNOHANG)[0]:
                self._children.discard(child)


def end_with_parent(parent: int) -> None:
    """Have the system kill this process when its parent ends, where the system can."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before that
        os._exit(1)
