"""PT101."""

from __future__ import annotations

from collections.abc import Iterator

from pilot_template.hooks import manifest
from pilot_template.hooks.manifest import MANIFEST
from pilot_template.hooks.result import Finding
from pilot_template.hooks.tree import Tree

BACK = "Bring it back: `git checkout HEAD -- {0}`, or from the commit before the edit: `git log -- {0}`."
UNDO = BACK.replace("Bring it back", "Undo the edit") + " The file's first line says where to extend it."


def standard_files(tree: Tree) -> Iterator[Finding]:
    """Every file of the standard's holds the bytes that the standard gave it.

    An edit there is lost at the next update or conflicts with it, and an edit that merges can still weaken
    what the standard promises. What a pilot needs to differ in goes into a file of the team's.
    """
    text = tree.text(MANIFEST)
    if text is None:
        yield Finding(MANIFEST, "the list of the standard's files is missing", BACK.format(MANIFEST))
        return
    if tree.same_version and text != manifest.own():
        what = "it is not the list that this version of the template gave"
        yield Finding(MANIFEST, what, "Never edit it by hand. " + BACK.format(MANIFEST))
        return
    try:
        listed = manifest.parse(text)
    except ValueError as error:
        yield Finding(MANIFEST, f"it cannot be read: {error}", BACK.format(MANIFEST))
        return
    for name, expected in listed.items():
        content = tree.content(name)
        if content is None:
            what = (
                "it is a link or a folder, and not the standard's file" if tree.has(name) else "it is missing"
            )
            yield Finding(name, what, BACK.format(name))
        elif manifest.digest(content) != expected:
            yield Finding(name, "it is not as the standard gave it", UNDO.format(name))
    for name in tree.present:
        if name.startswith("harness/") and name not in listed and name != MANIFEST:
            mend = "Move it to src/ or tests/, which are yours; `copier update` replaces harness/."
            yield Finding(name, "a file that is not the standard's, in the standard's folder", mend)
