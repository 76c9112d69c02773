"""Mutants of lineage: what tells of people, calls a broken chain whole, or tells the same run twice."""

from __future__ import annotations

from mutants import Mutant

CHAIN, RUNS, TRACED = "lineage/chain.py", "lineage/runs.py", "test_lineage.py"
EVENTS, PICTURE, GIT = "lineage/openlineage.py", "lineage/picture.py", "pipeline/lineage.py"


def mutant(name: str, file: str, old: str, new: str, only: str) -> Mutant:
    return Mutant(name, file, old, new, TRACED, only)


MUTANTS = (
    mutant(
        "a lock file of another run passes",
        CHAIN,
        "if run is not None and hashlib.sha256(content).hexdigest() != run.dvc_lock:",
        "if False:",
        "fault and edited_lock",
    ),
    mutant(
        "a stage may have read what nobody wrote",
        CHAIN,
        "if path in made and made[path][1] != md5:",
        "if False:",
        "fault and other_bytes",
    ),
    mutant(
        "edited evidence passes",
        CHAIN,
        "if found is not None and name in made and hashlib.md5(found).hexdigest() != made[name][1]:",
        "if False:",
        "fault and edited_evidence",
    ),
    mutant(
        "a changed package passes",
        CHAIN,
        "            verify(folder, digest)\n",
        "            pass\n",
        "fault and changed_package",
    ),
    mutant(
        "a package of other data passes",
        CHAIN,
        "if run is not None and run.data != manifest.data:",
        "if False:",
        "fault and other_data",
    ),
    mutant(
        "the last run is taken for the one that made any model",
        CHAIN,
        "if found is not None and found.model == digest:",
        "if found is not None:",
        "nobody_knows_here or among_the_commits",
    ),
    mutant(
        "a lost lock file is none",
        CHAIN,
        '        what = "it is missing" if content is None else "it cannot be read"\n'
        '        troubles.append(Trouble("missing", where, what, mend))\n',
        "",
        "fault and no_lock",
    ),
    mutant(
        "a broken chain is told to a catalogue",
        EVENTS,
        "    if broken is not None:\n        raise",
        "    if False:\n        raise",
        "fault and edited_lock",
    ),
    mutant(
        "asking for a decision makes a store",
        CHAIN,
        'if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").is_file():',
        "if False:",
        "wrong_use",
    ),
    mutant(
        "what a person signed for is told",
        RUNS,
        "settings=hashlib.sha256(json.dumps(rest, sort_keys=True, default=str).encode()).hexdigest()",
        "settings=json.dumps(rest, sort_keys=True, default=str)",
        "in_any_form or trained_on",
    ),
    mutant(
        "an address keeps its account and password",
        GIT,
        'return re.sub(r"(?<=://).*@", "", url)',
        "return url",
        "in_any_form",
    ),
    mutant(
        "an address keeps its options",
        CHAIN,
        'return f"{parts.scheme}://{parts.netloc}{parts.path}"',
        "return without_account(where)",
        "in_any_form",
    ),
    mutant(
        "a path tells where the pilot lies",
        CHAIN,
        "return (path.relative_to(settings.root) if path.is_relative_to(settings.root) else path).as_posix()",
        "return path.as_posix()",
        "fault and changed_package",
    ),
    mutant(
        "two runs have the same ids",
        EVENTS,
        '"\\n".join([chain.package, run.dvc_lock, model, run.at])',
        "chain.package",
        "other_ids",
    ),
    mutant(
        "the sources are not told",
        EVENTS,
        "if _writes(stage, layout.SNAPSHOT) else []",
        "if False else []",
        "join_the_sources",
    ),
    mutant(
        "stages are told as they stand in the file",
        RUNS,
        "return in_order(stages)",
        "return stages",
        "trained_on",
    ),
    mutant(
        "a name is drawn as long as it is",
        PICTURE,
        "if _wide(shown) <= room:",
        "if True:",
        "in_its_box",
    ),
    mutant("boxes lie upon each other", PICTURE, "y += box.height + GAP", "y += GAP", "in_its_box"),
)
