"""PT301, PT302 and PT303."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pilot_template.hooks.result import Finding
from pilot_template.hooks.tree import Tree, suffix

MARKER = r"^(<{7}|>{7}|\|{7})( |$)"
# What `pilot update` leaves where two files want one path, and a number where that name was taken.
KEPT = re.compile(r"\.(yours|standard)(-\d+)?(/|$)")
KEPT_WHY = {
    "yours": "you had edited the standard's file, which has changed too",
    "standard": "the standard has a file of this name now, and you had one before",
}
LIMIT = 500_000  # bytes; the standard's own largest file, its pins, is below
DATA = {
    *(".parquet", ".feather", ".arrow", ".avro", ".orc"),
    *(".db", ".sqlite", ".sqlite3", ".duckdb"),
    *(".pkl", ".pickle", ".joblib", ".dill"),
    *(".npy", ".npz", ".h5", ".hdf5", ".mat", ".rds"),
    *(".onnx", ".pt", ".pth", ".ckpt", ".safetensors", ".gguf", ".keras", ".mlmodel"),
}
# What is binary and belongs into a repository: documents with pictures, and small examples of a test.
PICTURES = {".png", ".jpg", ".jpeg", ".gif", ".webp", ".ico", ".pdf", ".woff", ".woff2"}
EXAMPLES = "tests/"


def conflict_leftovers(tree: Tree) -> Iterator[Finding]:
    """No file holds what an update or a merge could not resolve.

    `copier update` ends with exit code 0 whether or not there are conflicts, so nothing else would tell.
    """
    mend = "Decide between the two sides, take the marker lines out, and `git add` the file."
    listed = tree.git("grep", "-z", "--untracked", "-IlE", MARKER, fine=(0, 1))
    seen = {name for name in listed.split("\0") if name}
    for name in seen:
        lines = (tree.text(name) or "").split("\n")
        first = next((number for number, line in enumerate(lines, 1) if re.match(MARKER, line)), 0)
        yield Finding(name, "it holds a conflict that nobody resolved", mend, line=first)
    for name in tree.present:
        kept = KEPT.search(name)
        if kept:
            what = f"an update kept it: {KEPT_WHY[kept[1]]}"
            yield Finding(name, what, "Bring what is needed to where it belongs, and delete this file.")
        if suffix(name) in (".rej", ".orig"):
            what = "it was left over by an update or a merge that did not fit"
            target = name.removesuffix(suffix(name))
            yield Finding(name, what, f"Bring in by hand what belongs into {target}, and delete it.")
    unmerged = {
        entry.partition("\t")[2] for entry in tree.git("ls-files", "-z", "--unmerged").split("\0") if entry
    }
    for name in unmerged - seen:
        yield Finding(
            name, "git holds it as unmerged", "Decide between the two sides, and `git add` the file."
        )


def large_files(tree: Tree) -> Iterator[Finding]:
    """No file in git is larger than 500 kB.

    Git keeps every version of every file for good, and each clone carries them all. Data belongs to DVC.
    """
    for name in tree.tracked:
        if tree.is_plain(name) and tree.size(name) > LIMIT:
            yield Finding(name, f"it has {tree.size(name):,} bytes, and 500,000 is the limit", _away(name))


def data_files(tree: Tree) -> Iterator[Finding]:
    """No data, database or model is in git, and nothing binary but pictures.

    What cannot be read in a review can hold people's data, or run code when it is opened. The pipeline keeps
    its results in DVC. Small examples for tests may lie below tests/.
    """
    binary = _binary(tree)
    for name in tree.tracked:
        if name.startswith(EXAMPLES) or not tree.is_plain(name):
            continue
        if suffix(name) in DATA:
            yield Finding(
                name, f"a {suffix(name)} file is data or a model, and does not belong into git", _away(name)
            )
        elif name in binary and suffix(name) not in PICTURES:
            yield Finding(name, "it is binary: nobody can review it", _away(name))


def _binary(tree: Tree) -> set[str]:
    """What git takes for binary by its content; a file with CR alone counts as text."""
    found = set()
    for entry in tree.git("ls-files", "-z", "--eol").split("\0"):
        facts, _, name = entry.partition("\t")
        if facts.startswith("i/-text") and b"\0" in (tree.content(name) or b""):
            found.add(name)
    return found


def _away(name: str) -> str:
    return f"Take it out (`git rm --cached {name}`): DVC keeps data, below data/; var/ is for run-time state."
