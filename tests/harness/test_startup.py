"""What a command does before it imports anything large."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

import pytest

from harness import startup

ASK = "import {}, gc, json; print(json.dumps(gc.get_threshold()))"


@pytest.mark.parametrize("entry", ["harness.cli", "harness.pipeline.__main__"])
def test_a_command_looks_for_garbage_rarely(entry: str, python: Callable[..., subprocess.Popen[str]]) -> None:
    said, complaint = python(ASK.format(entry)).communicate(timeout=60)
    assert said, complaint
    assert tuple(json.loads(said)) == startup.THRESHOLDS
