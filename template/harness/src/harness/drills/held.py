"""A model whose scoring the drill can hold, so that a request is certainly under way when it is stopped."""

from __future__ import annotations

import hashlib
import shutil
import socket
import threading
from contextlib import suppress
from types import TracebackType

from harness.drills.scratch import ScratchPilot, repackaged
from harness.pipeline.manifest import CODE, load_manifest

FILE = f"{CODE}/model.py"
WAITS = """

def _held(predict):
    import socket

    def held(*given, **named):
        with socket.create_connection(("127.0.0.1", {port}), timeout=60) as drill:
            drill.recv(1)  # until the drill lets go
        return predict(*given, **named)

    return held


predict = _held(predict)
"""


class Holder:
    """Listens for scoring that has begun; with the block everything is let go."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._changed = threading.Condition()
        self._holding = False
        self._held: list[socket.socket] = []
        threading.Thread(target=self._accept, name="holder", daemon=True).start()

    def __enter__(self) -> Holder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.let_go()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread, which close alone does not
        self._listener.close()

    @property
    def port(self) -> int:
        """Where it listens, on the loopback."""
        number: int = self._listener.getsockname()[1]
        return number

    def hold(self) -> None:
        """From now on scoring waits."""
        with self._changed:
            self._holding = True

    def let_go(self) -> None:
        """Let everything that waits go on, and hold nothing any more."""
        with self._changed:
            self._holding = False
            for each in self._held:
                each.close()
            self._held.clear()

    def waiting(self, count: int, *, within_s: float) -> int:
        """How many scorings wait, as soon as there are so many, or time is up."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._held) >= count, timeout=within_s)
            return len(self._held)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._changed:
                if self._holding:
                    self._held.append(connection)
                else:
                    connection.close()
                self._changed.notify_all()


def held_model(pilot: ScratchPilot, port: int) -> str:
    """Package the copy's model anew with a scoring that asks the holder first; gives its digest."""
    before = load_manifest(pilot.models / pilot.offered)
    beside = pilot.copy.root / "var" / "held"
    shutil.copytree(pilot.models / pilot.offered, beside / pilot.offered)
    code = beside / pilot.offered / FILE
    code.write_text(code.read_text(encoding="utf-8") + WAITS.format(port=port), encoding="utf-8")
    hashed = hashlib.sha256(code.read_bytes()).hexdigest()
    manifest = before.model_copy(update={"files": {**before.files, FILE: hashed}})
    digest = repackaged(beside, pilot.offered, manifest)
    shutil.move(beside / digest, pilot.models / digest)
    shutil.rmtree(beside)
    return digest
