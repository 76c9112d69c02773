"""The scratch copy that a drill plays in: the pilot's code, its packaged model, a few of its records.

It has a control folder, a store and a port of its own, stands in the sandbox whatever stage the pilot is in,
and is gone afterwards. Nothing leads from it to the pilot in use.
"""

from __future__ import annotations

import json
import os
import shutil
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from harness.control import StateUnreadable, offer, read_state
from harness.errors import PilotError
from harness.pipeline import layout, lineage, record
from harness.pipeline.manifest import MANIFEST, Manifest, load_manifest, verify
from harness.settings import FILE, Settings
from harness.testing import PilotCopy, scratch_copy
from harness.testing.scratch import NoRepository

FOLDER = Path("var", "drills")
RECORDS = 200


@dataclass(frozen=True)
class ScratchPilot:
    """A pilot to drill with.

    Attributes:
        copy: The copy, and the command ``pilot`` in it.
        model: The digest of the model that the pilot in use has packaged.
        offered: The digest under which it decides here.
        trees: The git tree hashes of the folders that decide.
        records: Records that were held back from training, as a caller would send them.
        in_use: The folder of the pilot in use, where a drill reads at most.
    """

    copy: PilotCopy
    model: str
    offered: str
    trees: dict[str, str]
    records: list[dict[str, Any]]
    in_use: Path

    @property
    def control(self) -> Path:
        """The copy's control folder."""
        return self.copy.control

    @property
    def models(self) -> Path:
        """Where the copy's service finds its models."""
        return Path(self.copy.environment["PILOT_SERVING__MODELS"])

    def token(self) -> str:
        """A token of the copy's, to ask for decisions with.

        Raises:
            PilotError: None can be issued.
        """
        done = self.copy.run("token", "issue", "drill", "--scope", "decide", "--json")
        if done.code != 0:
            last = (done.stderr.strip().splitlines() or [f"exit code {done.code}"])[-1]
            raise PilotError(
                f"no token can be issued in the scratch copy: {last}",
                where="pilot token issue",
                mend="Mend what it says.",
            )
        return str(json.loads(done.stdout)["token"])

    def offer(self, digest: str) -> None:
        """Let a model of the copy decide for everybody, as `pilot run` does in the sandbox."""
        offer(self.control, digest=digest, flag_key=self.copy.settings.pilot.package, reason="a drill")


@contextmanager
def scratch_pilot(settings: Settings) -> Iterator[ScratchPilot]:
    """Make the copy, and take it away again, however the block ends.

    Raises:
        PilotError: There is no packaged model, no record, or no git repository.
    """
    digest = packaged(settings)
    held_back = settings.path(layout.TEST_RECORDS)
    if not held_back.is_file():
        raise PilotError(
            "there are no records to drill with",
            where=str(layout.TEST_RECORDS),
            mend="Run `pilot run` first.",
        )
    _sweep(settings.path(FOLDER))
    folder = settings.path(FOLDER, str(os.getpid()))
    try:
        copy = _copied(settings, folder)
        (copy.root / layout.TEST_RECORDS).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(held_back, copy.root / layout.TEST_RECORDS)
        models = Path(copy.environment["PILOT_SERVING__MODELS"])
        models.mkdir(parents=True, exist_ok=True)
        shutil.copytree(settings.path(settings.serving.models, digest), models / digest)
        made = ScratchPilot(
            copy=copy,
            model=digest,
            offered=playable(models, digest),
            trees={name: lineage.tree(copy.root, name) for name in record.TREES},
            records=copy.held_back(RECORDS),
            in_use=settings.root,
        )
        made.offer(made.offered)
        yield made
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # another drill may be under way
            settings.path(FOLDER).rmdir()


def packaged(settings: Settings) -> str:
    """The digest of the model to drill with: the one on trial, else the champion, else the last packaged.

    Raises:
        PilotError: There is none, or it is damaged.
    """
    try:
        state = read_state(settings.path(settings.control.folder))
    except StateUnreadable:
        state = None  # a drill must be possible just then
    slot = state and (state.challenger or state.champion)
    digest = slot.digest if slot else load_manifest(settings.path(layout.PACKAGE)).digest
    verify(settings.path(settings.serving.models, digest), digest)
    return digest


def playable(models: Path, digest: str) -> str:
    """The digest of the same package for the sandbox, where a model of real data may not decide.

    The copy calls such a package one of a declared sample; every other byte of it stays as it was.
    """
    manifest = load_manifest(models / digest)
    if manifest.origin != "real":
        return digest
    return repackaged(models, digest, manifest.model_copy(update={"origin": "sample"}))


def repackaged(models: Path, digest: str, manifest: Manifest) -> str:
    """Give the copy's package another manifest, and so another name."""
    folder = models / manifest.digest
    if folder != models / digest and not folder.exists():
        shutil.copytree(models / digest, folder)
    (folder / MANIFEST).write_bytes(manifest.content)
    return manifest.digest


def _copied(settings: Settings, folder: Path) -> PilotCopy:
    try:
        made = scratch_copy(settings.root, folder)
    except NoRepository as error:
        what, _, mend = str(error).partition(": ")
        raise PilotError(what, where=str(settings.root), mend=f"{mend}.") from error
    file = made.root / FILE
    values = tomllib.loads(file.read_text(encoding="utf-8"))
    file.write_text(_toml(_alone(values)), encoding="utf-8")
    (made.root / "var").mkdir(exist_ok=True)
    return PilotCopy(made.root)


def _alone(values: dict[str, Any]) -> dict[str, Any]:
    """pilot.toml without what leads elsewhere; an environment variable cannot empty a value."""
    kept = {name: dict(table) for name, table in values.items() if name not in ("remote", "downstream")}
    kept.get("control", {}).pop("on_call_group", None)  # what is shown is the switch, not who may
    # Callers of the copy are played by one that is on this machine and has its token: who may read the key,
    # whom an issuer knows and what a single caller may ask for are the pilot's in use.
    for name in ("tls_certificate", "tls_key", "oidc", "rate_per_s", "burst"):
        kept.get("serving", {}).pop(name, None)
    return kept


def _toml(values: dict[str, Any], above: str = "") -> str:
    """Tables of plain values as TOML, whose strings, numbers and lists are written as in JSON."""
    lines, below = [], []
    for name, value in values.items():
        if isinstance(value, dict):
            dotted = f"{above}{json.dumps(name, ensure_ascii=False)}"
            below.append(f"\n[{dotted}]\n{_toml(value, f'{dotted}.')}")
        else:
            lines.append(
                f"{json.dumps(name, ensure_ascii=False)} = {json.dumps(value, ensure_ascii=False)}\n"
            )
    return "".join([*lines, *below])


def _sweep(folder: Path) -> None:
    """Take away what drills left that were killed."""
    for left in folder.glob("*") if folder.is_dir() else ():
        if not (left.name.isdigit() and psutil.pid_exists(int(left.name))):
            shutil.rmtree(left, ignore_errors=True)
