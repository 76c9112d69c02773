"""What tests of the models' processes need: things that a model may do, and who is still there."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import psutil
import pytest

from harness.serving.host import ModelHost

HANG = "while True: time.sleep(60)"
# It takes for ever, keeps the interpreter's lock and the processor, and lets no signal handler run.
SPIN = "import re; re.match('(a+)+$', 'a' * 60 + 'b')"
# A service in a process of its own, with the pilot's folder as its argument, that has made a decision.
SERVING = """
import ctypes, os, sys, threading, time
from datetime import date
from pathlib import Path
from harness.serving.server import build_service
from harness.settings import load_settings

service = build_service(load_settings(Path(sys.argv[1])))
service.model_state()
record = dict(reading="r", plot="p", measured_on=date(2026, 3, 1), dryness=80.0, depth_cm=5)
record |= dict(crop=None, covered=None, slope=None)
made = service.decide(record)
assert made.served_by == "model", made.why
"""


def answers(host: ModelHost, digest: str, record: dict[str, Any]) -> bool:
    """Whether the model gives its score; for waiting until it does."""
    with suppress(Exception):
        return host.score(digest, record).score == pytest.approx(0.8)
    return False


def gone(pid: int) -> bool:
    """Whether a process is no more; one that nobody has waited for still is."""
    return not psutil.pid_exists(pid)
