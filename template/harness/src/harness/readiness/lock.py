"""evidence/evidence.lock.json: what exactly a signature stands for.

It names the code by git tree hashes, which a squashed merge or a shallow clone keeps, and the documents, data
and figures by their content. Whoever signs names the lock's own digest, so a change of any of them needs a
new signature. The signatures themselves are left out of it.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from harness.control.identity import actor
from harness.errors import PilotError
from harness.governance import model_card
from harness.governance.document import parse, text_of
from harness.governance.documents import BY_NAME, KINDS
from harness.governance.explain import Finding
from harness.pipeline import layout, lineage, record
from harness.settings import FILE

TREES = ("src", "harness")
ROLLOUT = BY_NAME["rollout"].path
CARD = BY_NAME["model-card"].path
FILES = (
    FILE,
    layout.PARAMS.as_posix(),
    layout.LOCK.as_posix(),
    layout.METRICS.as_posix(),
    layout.QUALITY.as_posix(),
    layout.PROFILE.as_posix(),
    layout.PROBES.as_posix(),
    layout.RUN.as_posix(),
    *(kind.path for kind in KINDS),
)


class Lock(BaseModel):
    """The file.

    Attributes:
        schema_version: Its layout.
        produced_at: When it was made.
        produced_by: The account that made it.
        trained_by: Who committed the run that it speaks of, by git.
        trees: Git tree hashes of folders, as committed.
        files: SHA-256 of files; of rollout.yaml without its signatures.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    produced_at: AwareDatetime
    produced_by: str
    trained_by: str
    trees: dict[str, str]
    files: dict[str, str]

    def differences(self, other: Lock) -> list[str]:
        """The folders and files that are otherwise in another lock."""
        mine, theirs = self.trees | self.files, other.trees | other.files
        return sorted(name for name in {*mine, *theirs} if mine.get(name) != theirs.get(name))


def current(root: Path) -> Lock:
    """What a lock would say now."""
    return Lock(
        produced_at=datetime.now(UTC).replace(microsecond=0),
        produced_by=actor(),
        trained_by=lineage.last_author(root, layout.LOCK.as_posix()),
        trees={name: lineage.committed_tree(root, name) for name in TREES},
        files={name: _content(root, name) for name in FILES},
    )


def read(root: Path) -> tuple[Lock, str]:
    """The lock that was committed, and its digest.

    Raises:
        PilotError: It is missing, or no lock of this layout.
    """
    try:
        content = (root / layout.EVIDENCE_LOCK).read_bytes()
        return Lock.model_validate_json(content), hashlib.sha256(content).hexdigest()
    except OSError as error:
        raise PilotError(
            "the evidence lock is missing",
            where=str(layout.EVIDENCE_LOCK),
            mend="`pilot governance lock`, once everything else is in place.",
        ) from error
    except ValidationError as error:
        raise PilotError(
            f"not an evidence lock: {error.errors()[0]['msg']}",
            where=str(layout.EVIDENCE_LOCK),
            mend="`pilot governance lock` again.",
        ) from error


def write(root: Path) -> tuple[str, bool]:
    """Renew the figures of the model card, and lock what is there.

    A lock that still says what is there stays as it is: signatures hang on its bytes.

    Returns:
        The lock's digest, and whether it is a new one.

    Raises:
        PilotError: Code or data are not committed, or there is no evidence to lock.
    """
    run = record.read(root)
    changed = lineage.uncommitted(root, *TREES, layout.LOCK.as_posix())
    if changed is None or "none" in {lineage.committed_tree(root, name) for name in TREES}:
        raise PilotError(
            "git does not say what was committed",
            where=str(layout.EVIDENCE_LOCK),
            mend="Install git, make the pilot a repository, and commit: a lock names what was committed.",
        )
    if changed:
        raise PilotError(
            f"{len(changed)} files are not committed, {changed[0]} among them",
            where=str(layout.EVIDENCE_LOCK),
            mend="Commit first: a lock names what was committed.",
        )
    missing = [name for name in FILES if not (root / name).is_file()]
    if missing:
        mend = "`pilot run` makes evidence; `git checkout` brings a document back."
        raise PilotError(f"without it nothing is locked: {', '.join(missing)}", where=missing[0], mend=mend)
    _renew_figures(root, run.model)
    made = current(root)
    try:
        before, digest = read(root)
    except PilotError:
        pass
    else:
        if not before.differences(made) and before.trained_by == made.trained_by:
            return digest, False
    layout.write_json(root / layout.EVIDENCE_LOCK, made.model_dump(mode="json"))
    return read(root)[1], True


def figures(root: Path, digest: str) -> str:
    """The block that the model card has to hold."""
    try:
        return model_card.figures(digest, json.loads((root / layout.METRICS).read_bytes()))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise PilotError(
            "it is not what the stage writes", where=str(layout.METRICS), mend="`pilot run` again."
        ) from error


def _renew_figures(root: Path, digest: str) -> None:
    file = root / CARD
    text = text_of(file, CARD)
    if isinstance(text, Finding):
        raise PilotError(text.what, where=text.where, mend=text.mend)
    renewed = model_card.with_figures(text, figures(root, digest))
    if renewed != text:
        file.write_text(renewed, encoding="utf-8")


def _content(root: Path, name: str) -> str:
    if name != ROLLOUT or not (root / name).is_file():
        return record.sha256(root / name)
    try:
        said = parse((root / name).read_text(encoding="utf-8"))
        unsigned = {key: value for key, value in said.items() if key != "sign_offs"}
    except Exception:
        return record.sha256(root / name)  # what is wrong with it is told elsewhere
    return hashlib.sha256(json.dumps(unsigned, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
