"""What a packaged model's code imports, read and not run: what its process has ready, and does without."""

from __future__ import annotations

import ast
import functools
import hashlib
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from harness.errors import PilotError
from harness.pipeline.manifest import CODE, Manifest

# What features and scores are computed with, whatever the team's code imports.
ALWAYS = ("harness.serving.hosted", "narwhals", "numpy", "polars")
# Modelling libraries import these where they find them, for interfaces that a service never calls: LightGBM
# takes 1.7 to 2.6 s to import with them and 0.4 s without.
COMPANIONS = ("pandas", "sklearn")
PARSE_AGAIN = 5
PARSE_AGAIN_AFTER_S = 0.02


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
    except (SyntaxError, ValueError, RecursionError):
        what = "a file of the packaged model is not valid Python"
    raise PilotError(what, where=str(file), mend="Run `pilot run` to package the model again.")


_parsing = threading.Lock()


def _forked() -> None:
    global _parsing
    _parsing = threading.Lock()  # somebody may have held it


os.register_at_fork(after_in_child=_forked)


@functools.lru_cache(maxsize=256)  # a process that is started again imports what the one before did
def _read(content: bytes) -> tuple[frozenset[str], frozenset[str]]:
    tree = _parsed(content)
    return frozenset(_imports(tree, functions=False)), frozenset(_imports(tree, functions=True))


def _parsed(content: bytes) -> ast.Module:
    # Before 3.11.8 and 3.12.1, Python counts the depth of what two threads parse in one number, and fails at
    # the end of either (python/cpython#106905). The lock holds for ours; another's is soon done.
    with _parsing:
        for _ in range(PARSE_AGAIN):
            try:
                return ast.parse(content)
            except SystemError:
                time.sleep(PARSE_AGAIN_AFTER_S)
        return ast.parse(content)


def _imports(node: ast.AST, *, functions: bool) -> set[str]:
    found: set[str] = set()
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            found |= {alias.name for alias in child.names}
        elif isinstance(child, ast.ImportFrom) and child.level == 0 and child.module:
            found.add(child.module)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for other in child.orelse:
                found |= _imports(ast.Module([other], []), functions=functions)
        elif functions or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            found |= _imports(child, functions=functions)
    return found
