"""The packaged model: one folder with everything that decides, named by one digest.

The folder holds the model in its library's own format, the team's code that turns a record into a score, the
reference that live decisions are compared with, and manifest.json with the SHA-256 of every file. The digest
is the SHA-256 of manifest.json. Whoever loads a package names the digest and gets exactly those bytes or an
error; nothing is unpickled.
"""

from __future__ import annotations

import ast
import hashlib
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from harness.errors import PilotError
from harness.files import PART, whole_folder
from harness.pipeline import layout

if TYPE_CHECKING:
    from harness.settings import Settings

MANIFEST = "manifest.json"
MODEL = "model"
CODE = "code"
REFERENCE = "reference.json"
NOT_PACKAGED = ("sources.py", "monitors.py", "routes.py")
ABANDONED_AFTER_S = 3_600.0


class Manifest(BaseModel):
    """What a package holds.

    Attributes:
        schema_version: The layout of the package.
        package: The pilot's package name.
        origin: Whether it was trained on simulated data, a declared sample, or real data.
        data: The snapshot's digest.
        features: The features' names, in the order that the model takes.
        metrics: What `evaluate` found.
        files: Each file's SHA-256, by its path in the package.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    package: str
    origin: Literal["simulated", "sample", "real"]
    data: str
    features: tuple[str, ...]
    metrics: dict[str, Any]
    files: dict[str, str]

    @property
    def content(self) -> bytes:
        """manifest.json as it is written."""
        return json.dumps(self.model_dump(mode="json"), indent=2, sort_keys=True).encode() + b"\n"

    @property
    def digest(self) -> str:
        """The name of the package: 64 hexadecimal digits."""
        return hashlib.sha256(self.content).hexdigest()


def build_package(settings: Settings) -> Manifest:
    """Put the package together from what the stages left."""
    import polars as pl

    found = json.loads(settings.path(layout.ORIGIN).read_text(encoding="utf-8"))
    columns = pl.read_parquet_schema(settings.path(layout.TRAIN))
    with whole_folder(settings.path(layout.PACKAGE)) as folder:
        shutil.copytree(settings.path(layout.MODEL), folder / MODEL)
        shutil.copytree(
            settings.path("src", settings.pilot.package),
            folder / CODE,
            # Sources are ingest's: a service that cannot reach them must still start. Monitors look on from
            # outside, and routes are the service's: neither makes a new model.
            ignore=shutil.ignore_patterns("__pycache__", "*.pyc", *NOT_PACKAGED, ".*"),
        )
        shutil.copyfile(settings.path(layout.REFERENCE), folder / REFERENCE)
        _check_imports(folder / CODE, settings.pilot.package)
        manifest = Manifest(
            package=settings.pilot.package,
            origin=found["origin"],
            data=found["digest"],
            features=tuple(name for name in columns if name not in (layout.KEY, layout.LABEL, layout.TIME)),
            metrics=json.loads(settings.path(layout.METRICS).read_text(encoding="utf-8")),
            files=_hashes(folder),
        )
        (folder / MANIFEST).write_bytes(manifest.content)
    return manifest


def load_manifest(folder: Path) -> Manifest:
    """Read a package's manifest without checking its files.

    Raises:
        PilotError: It is missing or not a manifest of a layout that this version knows.
    """
    file = folder / MANIFEST
    try:
        manifest = Manifest.model_validate_json(file.read_bytes())
    except FileNotFoundError as error:
        raise PilotError(
            "there is no packaged model", where=str(folder), mend="Run `pilot run` to make one."
        ) from error
    except OSError as error:
        raise PilotError(
            f"cannot be read: {error.strerror}",
            where=str(file),
            mend="Give the service the right to read it.",
        ) from error
    except ValidationError as error:
        raise PilotError(
            f"not a manifest: {error.errors()[0]['msg']}", where=str(file), mend="Run `pilot run` again."
        ) from error
    return manifest


def named(folder: Path, digest: str) -> Manifest:
    """The manifest of that digest, without a look at the files that it names.

    Raises:
        PilotError: It is missing or another one.
    """
    manifest = load_manifest(folder)
    if hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest() != digest:
        raise PilotError(
            f"the package is not the one of digest {digest[:12]}",
            where=str(folder / MANIFEST),
            mend="Run `pilot run` to package the model again.",
        )
    return manifest


def verify(folder: Path, digest: str) -> Manifest:
    """Check that a folder is the package of that digest, to the byte and with nothing added.

    Raises:
        PilotError: It is another package, or a file was changed, removed or added.
    """
    manifest = named(folder, digest)
    strange = next((path for path in sorted(folder.rglob("*")) if not _ordinary(path)), None)
    if strange is not None:
        raise PilotError(
            "the packaged model holds something that is neither a file nor a folder",
            where=str(strange),
            mend="Remove it, or run `pilot run` to package the model again.",
        )
    found = _hashes(folder)
    for path in sorted({*found, *manifest.files}):
        if found.get(path) != manifest.files.get(path):
            state = (
                "missing"
                if path not in found
                else "not in the manifest"
                if path not in manifest.files
                else "changed"
            )
            raise PilotError(
                f"a file of the packaged model is {state}",
                where=str(folder / path),
                mend="Run `pilot run` to package the model again.",
            )
    return manifest


def keep(package: Path, models: Path) -> Manifest:
    """Copy a package to where the service finds it, under its digest; a package already there is kept.

    Raises:
        PilotError: The package is damaged.
    """
    manifest = load_manifest(package)
    verify(package, manifest.digest)
    place = models / manifest.digest
    if place.exists():
        try:
            verify(place, manifest.digest)
        except PilotError:
            shutil.rmtree(place, ignore_errors=True)
        else:
            return manifest
    models.mkdir(parents=True, exist_ok=True)
    for left in models.glob(f".*{PART}"):  # by a process that was killed
        if time.time() - left.stat().st_mtime > ABANDONED_AFTER_S:
            shutil.rmtree(left, ignore_errors=True)
    # A folder of its own for each copy: two that run at once must not write into one another's.
    beside = Path(tempfile.mkdtemp(prefix=f".{manifest.digest[:12]}.", suffix=PART, dir=models))
    try:
        whole = beside / manifest.digest
        shutil.copytree(package, whole)
        verify(whole, manifest.digest)
        try:
            whole.rename(place)
        except OSError:
            verify(place, manifest.digest)  # somebody else was first, with the same bytes
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return manifest


def _ordinary(path: Path) -> bool:
    # A linked folder is not searched for files, and Python prefers a folder `x/` to the file `x.py`.
    return not path.is_symlink() and (path.is_file() or path.is_dir())


def _check_imports(code: Path, package: str) -> None:
    # An absolute import of the own package would reach past the packaged code into the work tree.
    for file in sorted(code.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_bytes())):
            where = f"{package}/{file.relative_to(code)} line {getattr(node, 'lineno', 0)}"
            if any(name.partition(".")[0] == package for name in _imported(node)):
                raise PilotError(
                    "it imports its own package by name, and would read the work tree instead",
                    where=where,
                    mend="Import relatively: from .contract import ...",
                )
            for name in NOT_PACKAGED:
                if name.removesuffix(".py") in _imported_beside(node):
                    raise PilotError(
                        f"it imports from {name}, which is not packaged",
                        where=where,
                        mend="Move what both need into a file of its own.",
                    )


def _imported_beside(node: ast.AST) -> set[str]:
    if not isinstance(node, ast.ImportFrom) or not node.level:
        return set()
    names = {alias.name for alias in node.names if not node.module}
    return {(node.module or "").partition(".")[0], *names}


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0:
        return [node.module or ""]
    return []


def _hashes(folder: Path) -> dict[str, str]:
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file != folder / MANIFEST
    }
