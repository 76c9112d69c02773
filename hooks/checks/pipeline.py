"""PT401."""

from __future__ import annotations

from collections.abc import Iterator

from pilot_template.hooks.dvc import (
    LOCK,
    PIPELINE,
    Lock,
    Pipeline,
    Stage,
    directory_hash,
    file_hash,
    same_value,
)
from pilot_template.hooks.result import Finding, Skipped
from pilot_template.hooks.tree import Tree

MEND = "Run `.venv/bin/pilot run`, and commit dvc.lock and evidence/ together with what changed."


def pipeline_lock(tree: Tree) -> Iterator[Finding]:
    """dvc.lock belongs to the code, the parameters and the evidence beside it.

    Otherwise what the evidence says was made by other code than what is there to be read. Data is not looked
    at: it need not be there. `make reproduce` asks DVC itself.
    """
    lock_text = tree.text(LOCK)
    if lock_text is None:
        results = {path for stage in Pipeline.read(tree).stages.values() for path in stage.in_git}
        left = sorted(results.intersection(tree.tracked))
        if not left:
            raise Skipped("no run has been committed yet")
        yield Finding(LOCK, f"it is missing, and {left[0]} claims that there was a run", MEND)
        return
    lock = Lock.parse(lock_text)
    if lock is None:
        yield Finding(
            LOCK, "it is not a lock file of DVC's", "Bring it back (`git checkout`), or run `pilot run`."
        )
        return
    pipeline = Pipeline.read(tree)
    for name in pipeline.stages:
        if name not in lock.stages:
            yield Finding(LOCK, f"the stage {name} of {PIPELINE} has not been run", MEND)
    for name, locked in lock.stages.items():
        if name not in pipeline.stages:
            yield Finding(LOCK, f"it tells of a stage {name} that {PIPELINE} does not have", MEND)
            continue
        for what in _differences(tree, pipeline.stages[name], locked, lock):
            yield Finding(LOCK, f"stage {name}: {what}", MEND)


def _differences(tree: Tree, stage: Stage, locked: Stage, lock: Lock) -> Iterator[str]:
    if stage.command != locked.command:
        yield f"its command is another in {PIPELINE}"
    for path in stage.deps:
        if path not in locked.deps:
            yield f"it did not depend on {path}"
        elif lock.made(path) not in (None, locked.deps[path]):
            yield f"it was run on another {path} than the one that is locked"
        elif (now := _hash(tree, path)) is not None and now != locked.deps[path]:
            yield f"{path} has changed since"
    for path in stage.outs:
        if path not in locked.outs:
            yield f"it did not write {path}"
    for path in sorted(stage.in_git):
        if tree.content(path) is None and tree.git("check-ignore", path, fine=(0, 1)) == "":
            yield f"{path}, which it wrote, is missing"
        elif (now := _hash(tree, path)) is not None and now != locked.outs.get(path):
            yield f"{path} is not what it wrote"
    for key, value in stage.params.items():
        if key not in locked.params or not same_value(value, locked.params[key]):
            yield f"{key[1]} in {key[0]} has changed since"


def _hash(tree: Tree, path: str) -> str | None:
    """What DVC would note for a path that is in git; None where nothing of it is."""
    below = [name for name in tree.tracked if name.startswith(f"{path}/")]
    if below:
        return directory_hash(tree, path, below)
    content = tree.content(path) if path in tree.tracked else None
    return None if content is None else file_hash(content)
