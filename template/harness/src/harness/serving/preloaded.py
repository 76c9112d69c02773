"""What the process has imported that the workers of `pilot serve` are forked from; Python starts it.

Each of them would import the same otherwise, and a start is nearly all imports. It imports and never uses:
no thread, connection or lock comes along, and a worker builds everything itself. Nothing of the pilot's own
package is here, so a worker that takes another's place reads the team's files as they are then.

A service manager may send its SIGTERM to every process. This one ignores it, because nobody else can tell the
supervisor when a worker has ended; it ends with the last of them.
"""

from __future__ import annotations

import os
import signal

import httptools  # noqa: F401
import uvloop  # noqa: F401

import harness.serving.asgi
import harness.serving.delivery
import harness.serving.running
import harness.serving.tracing  # noqa: F401

signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))
