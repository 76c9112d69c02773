"""The one place that knows DVC: it runs the stages whose inputs changed, and says what stopped it.

DVC runs in a process of its own, ``python -m harness.pipeline.reproduce``. Each stage notes how it ended in
the file named by PILOT_STAGE_PROTOCOL, because DVC does not pass a stage's exit code on; what DVC itself
complains about is noted there as well, so that a person reads one line and not two accounts of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import yaml

from harness import interruption, startup
from harness.errors import CheckFailed, PilotError
from harness.interruption import EXIT_CODE
from harness.pipeline import layout

PROTOCOL = Path("var", "run", "stages.jsonl")
LOCK = Path("var", "run", "lock")
RWLOCK = Path(".dvc", "tmp", "rwlock")
VARIABLE = "PILOT_STAGE_PROTOCOL"
# DVC hands no options on to a stage.
INGEST_FULL = "PILOT_INGEST_FULL"
STATUS = "--status"
# What DVC says of data that a clone without a cache does not have.
ABSENT = ("deleted", "not in cache")


@contextmanager
def alone(root: Path) -> Iterator[int]:
    """Keep a second run of the same pilot out, for as long as this one or its DVC lives.

    Yields:
        The lock's file descriptor, for the processes that hold it too.

    Raises:
        PilotError: Another run is under way.
    """
    file = root / LOCK
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            stream.seek(0)
            raise PilotError(
                f"another `pilot run` is under way (process {stream.read().strip() or 'unknown'})",
                where=str(root),
                mend="Wait until it has finished, or interrupt it.",
            ) from error
        stream.truncate(0)
        stream.write(f"{os.getpid()}\n")
        stream.flush()
        yield stream.fileno()


def reproduce(root: Path, *, force: bool, lock: int, full: bool = False, debug: bool = False) -> list[str]:
    """Let DVC run what changed.

    Args:
        root: The pilot's folder.
        force: Run every stage.
        lock: What `alone` gave.
        full: Read every source whole.
        debug: Let stages show tracebacks.

    Returns:
        The stages that ran, in order.

    Raises:
        CheckFailed: A stage's check said no.
        PilotError: A stage, or DVC itself, could not do its work.
        KeyboardInterrupt: Somebody ended it; every process that was started has ended.
    """
    protocol = root / PROTOCOL
    protocol.parent.mkdir(parents=True, exist_ok=True)
    protocol.unlink(missing_ok=True)
    forget_the_dead(root)
    environment = os.environ | {
        # The stages say `python`; it has to be this one.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        # DVC runs stages by the caller's shell, which an account for services does not have.
        "SHELL": "/bin/sh",
        VARIABLE: str(protocol),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DVC_NO_ANALYTICS": "1",
    }
    if full:
        environment[INGEST_FULL] = "1"
    if debug:
        environment["PILOT_DEBUG"] = "1"
    command = [sys.executable, "-m", "harness.pipeline.reproduce", *(["--force"] if force else [])]
    code = interruption.run(command, cwd=root, env=environment, stdin=subprocess.DEVNULL, pass_fds=[lock])
    entries = read_protocol(protocol)
    if code == 0:
        return [entry["stage"] for entry in entries]
    raise _stopped(entries, code)


def changed(root: Path) -> dict[str, list[str]] | None:
    """Which stages would have to run again, asked of DVC, and why; nothing is run.

    Data that is not there, as in a clone without a cache, is taken as the lock file says. That a stage always
    runs, because nobody knows what a source says today, is no change.

    Args:
        root: The pilot's folder.

    Returns:
        What has changed for each stage that would run again; None where no run was committed yet.

    Raises:
        CheckFailed: There is evidence of a run, and no lock file.
        PilotError: DVC could not say.
    """
    if not (root / layout.LOCK).exists():
        left = next((file for file in (layout.METRICS, layout.QUALITY) if (root / file).exists()), None)
        if left is None:
            return None
        raise CheckFailed(
            f"it is missing, and {left} claims that there was a run",
            where=str(layout.LOCK),
            mend="Run `pilot run`, and commit dvc.lock and evidence/ together.",
        )
    broken = _broken_links(root)
    forget_the_dead(root)
    command = [sys.executable, "-m", "harness.pipeline.reproduce", STATUS]
    environment = os.environ | {"DVC_NO_ANALYTICS": "1", "NO_COLOR": "1"}
    done = subprocess.run(
        command, cwd=root, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    try:
        told = json.loads(done.stdout)
        found = {stage: _causes(entries) for stage, entries in told.items()}
    except (ValueError, AttributeError) as error:
        complaint = _complaint(done.stdout + done.stderr, done.returncode)
        raise PilotError(complaint["what"], where=complaint["where"], mend=complaint["mend"]) from error
    for stage, path in broken:
        found.setdefault(stage, []).append(f"{path} was made anew by another run")
    return {stage: causes for stage, causes in found.items() if causes}


def _causes(entries: list[Any]) -> list[str]:
    """What has changed for a stage, of what DVC says about it."""
    found = []
    for entry in entries:
        if not isinstance(entry, dict):
            if entry != "always changed":
                found.append(str(entry))
            continue
        for paths in entry.values():
            for path, state in paths.items():
                if isinstance(state, dict):
                    found += [f"{key} in {path}" for key in state]
                elif not (path.startswith("data/") and state in ABSENT):
                    found.append(path if state == "modified" else f"{path} ({state})")
    return found


def _broken_links(root: Path) -> list[tuple[str, str]]:
    """Where a stage read something else than the one before it wrote, as a merge of lock files leaves it."""
    try:
        stages = yaml.safe_load((root / layout.LOCK).read_text(encoding="utf-8"))["stages"].items()
        made = {out["path"]: out["md5"] for _, stage in stages for out in stage.get("outs", [])}
        read = [(name, dep["path"], dep["md5"]) for name, stage in stages for dep in stage.get("deps", [])]
    except (yaml.YAMLError, LookupError, TypeError, AttributeError) as error:
        raise PilotError(
            "it is not a lock file of DVC's",
            where=str(layout.LOCK),
            mend="Bring it back (git checkout), or take it away and run `pilot run`.",
        ) from error
    return [(name, path) for name, path, was in read if made.get(path, was) != was]


def forget_the_dead(root: Path) -> None:
    """Take DVC's list of who reads and writes away when nobody on it lives.

    DVC looks at the process's number only: a zombie, as in a container without an init, or another program
    that has got the number since, would hold the pilot for good. So would a list that a full disk cut short.
    """
    file = root / RWLOCK
    try:
        modes = json.loads(file.read_text(encoding="utf-8")).values()
        entries = [entry for mode in modes for entry in mode.values()]
        numbers = {
            int(one["pid"])
            for entry in entries
            for one in (entry if isinstance(entry, list) else [entry])
            if one
        }
    except FileNotFoundError:
        return
    except (ValueError, TypeError, LookupError, AttributeError):
        numbers = set()
    if not any(_is_dvc(number) for number in numbers):
        file.unlink(missing_ok=True)


def _is_dvc(number: int) -> bool:
    try:
        process = psutil.Process(number)
        command = " ".join(process.cmdline())
        return process.status() != psutil.STATUS_ZOMBIE and (
            "dvc" in command or "harness.pipeline.reproduce" in command
        )
    except psutil.Error:
        return False


def note(entry: dict[str, Any]) -> None:
    """Add one line to the protocol, where there is one."""
    protocol = os.environ.get(VARIABLE)
    if protocol:
        with Path(protocol).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")


def read_protocol(protocol: Path) -> list[dict[str, Any]]:
    """What the stages, and DVC at last, have noted."""
    if not protocol.exists():
        return []
    found = []
    for line in protocol.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):  # a full disk cuts a line short
            found.append(json.loads(line))
    return found


def _stopped(entries: list[dict[str, Any]], code: int) -> BaseException:
    failed = next((entry for entry in entries if entry["exit_code"] != 0), None)
    if failed is None:
        return PilotError(
            f"DVC ended with exit code {code} before a stage could say why",
            where="dvc.yaml",
            mend="`.venv/bin/dvc repro -v` shows DVC's own account.",
        )
    if failed["exit_code"] == EXIT_CODE:
        return KeyboardInterrupt()
    kind = CheckFailed if failed["exit_code"] == 1 else PilotError
    return kind(failed["what"], where=failed["where"], mend=failed["mend"])


def main(arguments: list[str]) -> int:
    """Run DVC; what it says goes into the protocol, what its stages say to the terminal.

    With STATUS nothing is run: DVC tells on stdout, as JSON, what has changed.
    """
    if arguments == [STATUS]:
        from dvc.cli import main as dvc

        return int(dvc(["status", "--json"]) or 0)
    for number in (signal.SIGTERM, signal.SIGHUP):
        # Whoever started this passes them on as SIGINT, which DVC understands.
        signal.signal(number, lambda _number, _frame: None)
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        from dvc.cli import main as dvc

        # The team's own too, which lie in folders of theirs: `dvc status` looks at every one.
        code = int(dvc(["repro", "--all-pipelines", *arguments]) or 0)
    protocol = Path(os.environ.get(VARIABLE, PROTOCOL))
    if code and not any(entry["exit_code"] for entry in read_protocol(protocol)):
        note(_complaint(said.getvalue(), code))
    return code


def _complaint(said: str, code: int) -> dict[str, Any]:
    lines = said.splitlines()
    error = next((line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")), "")
    interrupted = code == 252 or "interrupted by the user" in error
    mend = "Correct that; `.venv/bin/dvc repro -v` shows DVC's own account."
    if "Unable to acquire lock" in error or "is busy" in error:
        error, mend = "another DVC process is at work here", "Wait until it has finished, and run again."
    if "No space left" in error or "No possible cache link types" in error:
        error = "it cannot bring data into its cache"
        mend = "Free the disk (`df data .dvc`), and let this account write to data/ and .dvc/."
    return {
        "stage": "dvc",
        "exit_code": EXIT_CODE if interrupted else 2,
        "what": f"DVC stopped: {error.rstrip('.') or 'it did not say why'}",
        # A stage of the team's has its file before its name.
        "where": found[1] if (found := re.search(r"'([^']+dvc\.yaml):", error)) else "dvc.yaml",
        "mend": mend,
    }


if __name__ == "__main__":
    startup.collect_rarely()
    sys.exit(main(sys.argv[1:]))
