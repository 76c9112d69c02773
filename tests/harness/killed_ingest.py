"""Ingests a plant's folder and kills itself at the n-th time that it does something.

Each line of standard input is one such attempt, in a process of its own; the answer is how that ended.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from harness.data import snapshot
from ingesting import TWO_TABLES, Plant


def mortal(done: Callable[..., Any], number: int) -> Callable[..., Any]:
    """The same, and the end of this process after the n-th time."""
    times = 0

    def once_more(*arguments: Any, **options: Any) -> Any:
        nonlocal times
        result = done(*arguments, **options)
        times += 1
        if times == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return once_more


def attempt(root: str, source: str, what: str, number: int, full: bool) -> None:
    places = {
        "a batch": (pq.ParquetWriter, "write_batch"),
        "a rename": (Path, "replace"),
        "a deletion": (Path, "unlink"),
        "a sync": (snapshot, "_sync"),
    }
    place, name = places[what]
    setattr(place, name, mortal(getattr(place, name), number))
    Plant(Path(root), source, TWO_TABLES).ingest(full=full)


if __name__ == "__main__":
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            attempt(**json.loads(line))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
