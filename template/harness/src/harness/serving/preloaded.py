"""What the process has imported that the workers of `pilot serve` are forked from; Python starts it.

Each of them would import the same otherwise, and a start is nearly all imports. It imports and never uses:
no thread, connection or lock comes along, and a worker builds everything itself. Nothing of the pilot's own
package is here, so a worker that takes another's place reads the team's files as they are then.

A service manager may send its SIGTERM to every process, and a terminal its Ctrl-C or that it was closed. This
one ignores them from its first line on, because nobody else can tell the supervisor when a worker has ended;
it ends with the last of them.
"""

from __future__ import annotations

import gc
import os
import signal
import sys

gc.disable()  # nothing that is imported is garbage
_before = {
    number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
}
signal.pthread_sigmask(signal.SIG_UNBLOCK, tuple(_before))  # they were held up meanwhile
# Python has this process import from the working directory first: a file of the team's would be taken for the
# library of that name.
sys.path[:] = [each for each in sys.path if each]

import httptools  # noqa: E402, F401
import uvloop  # noqa: E402, F401

import harness.serving.asgi  # noqa: E402
import harness.serving.connections  # noqa: E402
import harness.serving.delivery  # noqa: E402
import harness.serving.running  # noqa: E402
import harness.serving.tracing  # noqa: E402, F401
from harness.startup import collect_rarely  # noqa: E402

# What is there now stays: a collection in a fork would go through it, and copy every page of it.
gc.freeze()
gc.enable()
collect_rarely()

# From here on Python's own fork server sees to Ctrl-C, and gives workers back what it finds.
signal.signal(signal.SIGINT, _before.pop(signal.SIGINT))


def _heeding() -> None:
    for number, handler in _before.items():
        signal.signal(number, handler)


os.register_at_fork(after_in_child=_heeding)
