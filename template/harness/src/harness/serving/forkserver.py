"""The process that has a model's libraries imported, and forks the processes that models run in.

It imports and never uses: threads of OpenMP or Polars would not come along into a fork. It holds nothing of
the service's but the connection to it, and ends with it, and the models' processes that it forked with it.

Commands are five bytes: a letter and a number. ``F`` comes with a connection, which the new process gets, and
is answered by the new process's id; ``K`` ends the process of that id. ``S`` makes another server like it for
the service with that process id, whose connection and output come with it; the new server answers on that
connection with its process id and a descriptor of itself.
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
from collections.abc import Callable, Sequence

from harness.pilot import importing_without
from harness.serving.wire import Ended, Malformed, receive

COMMAND = struct.Struct("!cI")
FORK, KILL, SERVE = b"F", b"K", b"S"
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
    gc.disable()  # nothing that is imported is garbage
    with importing_without(*hidden):
        for name in modules:
            with contextlib.suppress(BaseException):
                importlib.import_module(name)
    for name in blocked:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]
    # What is there now stays: a collection in a fork would touch, and so copy, every page of it.
    gc.collect()
    gc.freeze()
    gc.enable()
    # Libraries have threads by now, and those of OpenBLAS are the only ones; it restarts them in a fork.
    warnings.filterwarnings("ignore", message=".*multi-threaded.*fork", category=DeprecationWarning)


class _Server:
    """Forks, until its service is gone.

    Args:
        control: The connection to the service.
        parent: The service's process id, where it is this process's parent.
        service: A descriptor of the service's process, where it is not.
    """

    def __init__(self, control: socket.socket, parent: int, service: int | None = None) -> None:
        self._control = control
        self._parent = parent
        self._service = service
        self._children: set[int] = set()
        self._servers: set[int] = set()
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
        if self._service is not None:
            watched.register(self._service, select.POLLIN)
        try:
            # The connection alone would not tell where a fork of the service holds its other end.
            while self._service is not None or os.getppid() == self._parent:
                ready = {descriptor for descriptor, _ in watched.poll(LOOK_S * 1000)}
                self._reap()
                if self._service in ready or (self._control.fileno() in ready and not self._obey()):
                    return
        finally:
            for child in self._children:
                os.kill(child, signal.SIGKILL)

    def _obey(self) -> bool:
        command, given, _, _ = socket.recv_fds(self._control, COMMAND.size, 2)
        if len(command) != COMMAND.size:
            return False
        letter, number = COMMAND.unpack(command)
        if letter == FORK and given:
            server = os.getpid()
            child = self._fork(lambda: _host(given[0], server))
            self._children |= {child} - {0}
            self._control.sendall(ANSWER.pack(child))
        elif letter == KILL and number in self._children:
            # Not yet reaped, so the number is still that process's.
            os.kill(number, signal.SIGKILL)
        elif letter == SERVE and len(given) == 2:
            # Where there is none, the asker finds the connection closed.
            connection, output = given
            self._servers |= {self._fork(lambda: _another(connection, output, number))} - {0}
        for descriptor in given:
            os.close(descriptor)
        return True

    def _fork(self, become: Callable[[], None]) -> int:
        """A process that does that and ends; 0 where the system gives none."""
        try:
            child = os.fork()
        except OSError:
            return 0
        if child == 0:
            self._let_go(become)
        return child

    def _let_go(self, become: Callable[[], None]) -> None:
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for descriptor in (self._woken, self._waking, self._service):
                if descriptor is not None:
                    os.close(descriptor)
            self._control.close()
            become()
            code = 0
        finally:
            with contextlib.suppress(BaseException):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._woken, 4096)
        for ours in (self._children, self._servers):
            for child in list(ours):
                if os.waitpid(child, os.WNOHANG)[0]:
                    ours.discard(child)


def _host(connection: int, server: int) -> None:
    end_with_parent(server)
    # Python's own numbers begin anew in a fork, and NumPy's would be the same in every process.
    if numbers := sys.modules.get("numpy.random"):
        numbers.seed()
    from harness.serving import hosted

    ignore()  # where Polars was imported only now
    hosted.run(socket.socket(fileno=connection))


def _another(connection: int, output: int, service: int) -> None:
    for own in (1, 2):
        os.dup2(output, own)
    os.close(output)
    control = socket.socket(fileno=connection)
    itself, watched = (os.pidfd_open(pid) for pid in (os.getpid(), service))
    try:
        socket.send_fds(control, [ANSWER.pack(os.getpid())], [itself])
        os.close(itself)
        _Server(control, 0, watched).run()
    except ConnectionError:  # the service is gone, perhaps before it read an answer
        pass


def end_with_parent(parent: int) -> None:
    """Have the system kill this process when its parent ends, where the system can."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before that
        os._exit(1)
