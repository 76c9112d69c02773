"""What a model's process has of the service's environment: what Python and libraries need, and what is named.

A list of what is let through and not of what is held back, because a secret may have any name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

# Where programs, libraries, files and the time of day are found.
PLACES = (
    "PATH HOME USER LOGNAME LANG LANGUAGE TZ TZDIR TMPDIR TEMP TMP VIRTUAL_ENV GLIBC_TUNABLES"
    " LD_LIBRARY_PATH LD_PRELOAD DYLD_LIBRARY_PATH DYLD_FALLBACK_LIBRARY_PATH"
)
# How Python runs. Not all that begins so, because anybody may name a secret PYTHON_SOMETHING.
PYTHON = (
    "PYTHONCOERCECLOCALE PYTHONDEVMODE PYTHONDONTWRITEBYTECODE PYTHONFAULTHANDLER PYTHONHASHSEED PYTHONHOME"
    " PYTHONINTMAXSTRDIGITS PYTHONIOENCODING PYTHONMALLOC PYTHONNOUSERSITE PYTHONOPTIMIZE PYTHONPATH"
    " PYTHONPLATLIBDIR PYTHONPYCACHEPREFIX PYTHONSAFEPATH PYTHONTRACEMALLOC PYTHONUNBUFFERED PYTHONUSERBASE"
    " PYTHONUTF8 PYTHONWARNINGS"
)
# What libraries compute with, which may change a score; what they are not to tell anybody, and not to fetch.
LIBRARIES = (
    "NUMEXPR_MAX_THREADS VECLIB_MAXIMUM_THREADS POLARS_MAX_THREADS POLARS_SKIP_CPU_CHECK"
    " NPY_DISABLE_CPU_FEATURES CUDA_DEVICE_ORDER CUDA_VISIBLE_DEVICES"
    " DO_NOT_TRACK MLFLOW_DISABLE_TELEMETRY HF_HUB_DISABLE_TELEMETRY HF_HUB_OFFLINE"
)
# By which the harness's own tests see what they cover in child processes.
COVERAGE = "COVERAGE_PROCESS_CONFIG COVERAGE_PROCESS_START"
NEEDED = frozenset(f"{PLACES} {PYTHON} {LIBRARIES} {COVERAGE}".split())
NEEDED_LIKE = re.compile(r"LC_[A-Z]+|[A-Z]+_NUM_THREADS|(OMP|GOMP|KMP|MKL|OPENBLAS|MALLOC)_[A-Z0-9_]+")


def handed_on(named: Iterable[str] = ()) -> dict[str, str]:
    """The part of this process's environment that a model's process gets.

    Args:
        named: Names of further variables; whatever is in them, the model's code can read.
    """
    let = NEEDED.union(named)
    return {name: value for name, value in os.environ.items() if name in let or NEEDED_LIKE.fullmatch(name)}


@contextmanager
def as_handed_on(named: Iterable[str] = ()) -> Iterator[None]:
    """Have this process itself see no more than that meanwhile; for one that does nothing else then."""
    whole = dict(os.environ)
    for name in whole.keys() - handed_on(named).keys():
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(whole)
