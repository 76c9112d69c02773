"""Somebody who knows nothing but the pilot's README stops the model, by typing what stands there."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from rendering import copy_template, render

Serve = Callable[..., Any]


@pytest.fixture(scope="module")
def section(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the README of a generated pilot says about stopping the model."""
    folder = tmp_path_factory.mktemp("readme")
    pilot = render(copy_template(folder / "template", lean=True), folder / "pilot")
    text = (pilot / "README.md").read_text(encoding="utf-8")
    found = text.partition("\n## Stop the model\n")[2].partition("\n## ")[0]
    assert found, "there is no such section"
    return found


@pytest.fixture
def typed(tiny: Any, environment: dict[str, str]) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Type a line in the pilot's folder, where `.venv` is what `make setup` makes."""
    command = tiny.root / ".venv" / "bin" / "pilot"
    command.parent.mkdir(parents=True)
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m harness.cli "$@"\n')
    command.chmod(0o755)

    def typed(line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", line], cwd=tiny.root, env=environment, capture_output=True, text=True, timeout=60
        )

    return typed


def decided(url: str, tiny: Any) -> str:
    answer = httpx.post(f"{url}/decide", json=tiny.record, timeout=30, trust_env=False)
    assert answer.status_code == 200
    return str(answer.json()["why"])


def test_33_a_stranger_stops_the_model_from_the_readme_alone_within_a_minute(
    tiny: Any, served: Serve, section: str, typed: Any, wait: Callable[..., Any]
) -> None:
    tiny.offered()
    running = served("--workers", "2")
    wait(lambda: decided(running.url, tiny) == "assigned")
    (block,) = re.findall(r"^```\n(.*?)^```", section, re.MULTILINE | re.DOTALL)[:1]
    first, *others = block.splitlines()
    started = time.monotonic()
    done = typed(first)
    assert time.monotonic() - started < 60
    assert done.returncode == 0, done.stderr
    assert "STOPPED" in done.stdout
    assert {decided(running.url, tiny) for _ in range(10)} == {"killed"}
    told = [typed(line) for line in others]
    assert [each.returncode for each in told] == [0] * len(others), told
    # The last line is the way back.
    assert "arm" in others[-1]
    wait(lambda: decided(running.url, tiny) == "assigned")


def test_33_the_file_that_it_names_stops_just_as_well(
    tiny: Any, served: Serve, section: str, typed: Any, wait: Callable[..., Any]
) -> None:
    tiny.offered()
    running = served()
    wait(lambda: decided(running.url, tiny) == "assigned")
    (line,) = dict.fromkeys(re.findall(r"`(touch [^`]+)`", section))
    assert typed(line).returncode == 0
    assert decided(running.url, tiny) == "killed"
    assert Path(tiny.control / "KILL").exists()
