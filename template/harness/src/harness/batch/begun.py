"""A batch is begun once, and gone on with by the same name: with the same input and under the same terms."""

from __future__ import annotations

import fcntl
import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.batch import Wanted
from harness.batch.source import Source
from harness.errors import PilotError
from harness.files import PART
from harness.settings import Settings
from harness.store import Batch
from harness.store.batches import BatchStore
from harness.store.database import now

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
LOCK = "lock"


def name_of(wanted: Wanted, source: Source) -> str:
    """The batch's name.

    Raises:
        PilotError: The one that was given is none.
    """
    if not wanted.batch_id:
        stem = re.sub(r"[^A-Za-z0-9_-]", "-", Path(source.name).stem).strip("-_")[:60]
        return f"{stem or 'batch'}-{source.sha256[:12]}"
    if not re.fullmatch(NAME, wanted.batch_id):
        mend = "Use letters, digits, dot, hyphen and underscore, 100 at most."
        raise PilotError(f"'{wanted.batch_id}' is no name for a batch", where="--id", mend=mend)
    return wanted.batch_id


def folder_of(settings: Settings, store: BatchStore, name: str) -> Path:
    """Where a batch of that name keeps its files, begun or not."""
    before = store.batch(name)
    return settings.path(settings.batch.folder, name) if before is None else store.place(before)


def gone_on(settings: Settings, wanted: Wanted, store: BatchStore, source: Source) -> Batch | None:
    """The batch as it was begun; None where it is new.

    Raises:
        PilotError: It was begun with another input, or under other terms.
    """
    before = store.batch(name_of(wanted, source))
    if before is not None:
        _same(before, source, _terms(settings, wanted))
    return before


def begin(
    settings: Settings, wanted: Wanted, store: BatchStore, source: Source, *, folder: Path, rows: int
) -> Batch:
    """Put a new batch on record."""
    name, terms = name_of(wanted, source), _terms(settings, wanted)
    batch = Batch(name, str(folder), source.name, source.sha256, terms, rows, now())
    store.begin(batch)
    return batch


def _terms(settings: Settings, wanted: Wanted) -> dict[str, Any]:
    contract = settings.path("src", settings.pilot.package, "contract.py")
    return {
        "contract": hashlib.sha256(contract.read_bytes()).hexdigest(),
        "in_decisions": wanted.deliver,
        "reasons": settings.serving.reasons if wanted.reasons is None else wanted.reasons,
        "rows_a_chunk": settings.batch.rows_a_chunk,
    }


def _same(before: Batch, source: Source, terms: Mapping[str, Any]) -> None:
    where = f"the batch '{before.batch_id}'"
    if before.input_sha256 != source.sha256:
        raise PilotError(
            f"it was begun with other rows than {source.name} has now",
            where=where,
            mend="Bring back what it was begun with, or decide these as another batch: --id NAME.",
        )
    told = {
        "contract": (
            "contract.py has changed since",
            "Decide under the new one as another batch: --id NAME.",
        ),
        "in_decisions": ("--deliver differs", "Go on as it was begun, or name another --id."),
        "reasons": ("--reasons differs", "Go on as it was begun, or name another --id."),
    }
    for term, (what, mend) in told.items():
        if before.terms.get(term) != terms[term]:
            raise PilotError(f"it was begun otherwise: {what}", where=where, mend=mend)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep a second process from the same batch, and take away what one that was killed left half written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("w")
    except OSError as error:
        raise PilotError(
            f"cannot be written: {error.strerror}",
            where=str(folder),
            mend="Make the place writable, or name another: [batch] folder in pilot.toml.",
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            mend = "Wait for it, or name another --id."
            raise PilotError(
                "another process is deciding this batch", where=str(folder), mend=mend
            ) from error
        for left in folder.glob(f"*{PART}"):
            left.unlink(missing_ok=True)
        yield
