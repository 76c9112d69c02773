"""What a packaged model's code imports, read and not run: what its process has ready, and does without."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

from harness.errors import PilotError
from harness.pipeline.manifest import CODE, Manifest
from harness.serving.imported import imports

# What features and scores are computed with, whatever the team's code imports.
ALWAYS = ("harness.serving.hosted", "narwhals", "numpy", "polars")
# Modelling libraries import these where they find them, for interfaces that a service never calls: LightGBM
# takes 1.7 to 2.6 s to import with them and 0.4 s without.
COMPANIONS = ("pandas", "sklearn")


@dataclass(frozen=True)
class Surroundings:
    """What the processes of a model have in common before its code is loaded.

    Attributes:
        modules: What is imported, in this order.
        hidden: What is not to be found meanwhile.
        blocked: What is not to be found by the model's code either.
        variables: What they have of the service's environment beside what every model's process has.
        beside: Whether they run beside decisions. Those that decide share nothing with them that may fail.
    """

    modules: tuple[str, ...]
    hidden: tuple[str, ...]
    blocked: tuple[str, ...]
    variables: tuple[str, ...] = ()
    beside: bool = False


def surroundings(folder: Path, manifest: Manifest, *, block: bool = True) -> Surroundings:
    """What a package asks for.

    What a function of its code imports may never be needed by a service, so it is not imported beforehand;
    but it is there.

    Args:
        folder: The package.
        manifest: Its manifest.
        block: Whether scikit-learn and pandas are kept away where the package's code does not import them.

    Raises:
        PilotError: A file of the package's code is not the one that the manifest names.
    """
    at_once: set[str] = set()
    somewhere: set[str] = set()
    for path in sorted(manifest.files):
        if not path.startswith(f"{CODE}/") or not path.endswith(".py"):
            continue
        first, any_time = _imported(folder / path, manifest.files[path])
        at_once |= first
        somewhere |= any_time
    modules = tuple(dict.fromkeys((*ALWAYS, *sorted(at_once))))
    if not block:
        return Surroundings(modules, (), ())
    return Surroundings(modules, _without(at_once), _without(somewhere))


def _without(imported: set[str]) -> tuple[str, ...]:
    used = {name.partition(".")[0] for name in imported}
    return tuple(name for name in COMPANIONS if name not in used)


def _imported(file: Path, digest: str) -> tuple[frozenset[str], frozenset[str]]:
    try:
        content = file.read_bytes()
        if hashlib.sha256(content).hexdigest() == digest:
            return _read(content)
        what = "a file of the packaged model is changed"
    except OSError as error:
        what = f"a file of the packaged model cannot be read: {error.strerror}"
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        what = "a file of the packaged model is not valid Python"
    raise PilotError(what, where=str(file), mend="Run `pilot run` to package the model again.")


@functools.lru_cache(maxsize=256)  # a process that is started again imports what the one before did
def _read(content: bytes) -> tuple[frozenset[str], frozenset[str]]:
    return imports(content, functions=False), imports(content, functions=True)
