"""Mutants of what the kernel takes from models' processes: those whose test this kernel lets run."""

from __future__ import annotations

from mutants import Mutant

from harness.serving.confined import REFER_SINCE, SIGNALS_SINCE, TRUNCATE_SINCE, level

CONFINED, CONFINING = "serving/confined.py", "test_serving_confined.py"

SINCE = (
    (
        REFER_SINCE,
        Mutant(
            "models that decide may end and read the service",
            CONFINED,
            "if offered < (REFER_SINCE if may_write else 1):",
            "if may_write or not offered:",
            CONFINING,
            "reads_the_service or ends_the_service",
        ),
    ),
    (
        SIGNALS_SINCE,
        Mutant(
            "a model may end the service",
            CONFINED,
            "SIGNALS if offered >= SIGNALS_SINCE else 0",
            "0",
            CONFINING,
            "ends_the_service",
        ),
    ),
    (
        1,
        Mutant(
            "a refusal of the system's goes unnoticed",
            CONFINED,
            "    if answer < 0:\n        raise _refused()\n",
            "",
            CONFINING,
            "refuses_is_an_error",
        ),
    ),
    (
        1,
        Mutant(
            "a model in shadow may delete and make files",
            CONFINED,
            "WRITE_FILE | REMOVE_AND_MAKE | truncate, os.devnull",
            "WRITE_FILE | truncate, os.devnull",
            CONFINING,
            "changes_no_file",
        ),
    ),
    (
        1,
        Mutant(
            "a model in shadow may open files to write",
            CONFINED,
            "WRITE_FILE | REMOVE_AND_MAKE | truncate, os.devnull",
            "REMOVE_AND_MAKE | truncate, os.devnull",
            CONFINING,
            "changes_no_file",
        ),
    ),
    (
        TRUNCATE_SINCE,
        Mutant(
            "a model in shadow may shorten files",
            CONFINED,
            "truncate = TRUNCATE if offered >= TRUNCATE_SINCE else 0",
            "truncate = 0",
            CONFINING,
            "changes_no_file",
        ),
    ),
)
MUTANTS = tuple(mutant for version, mutant in SINCE if level() >= version)
