"""Follow a model, or a decision, back to the sources, and say where the chain is broken or ends too early."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import sqlalchemy as sa

from harness import tracking
from harness.control import StateUnreadable, read_state, settings_control
from harness.errors import Inconclusive, PilotError
from harness.lineage import runs
from harness.lineage.runs import Kept
from harness.lineage.steps import Decided, InForce, Model, Run, Source, Stage, Trouble
from harness.pipeline import layout, lineage
from harness.pipeline.lineage import without_account
from harness.pipeline.manifest import Manifest, load_manifest, verify
from harness.settings import Settings
from harness.source_kinds import EMBEDDED
from harness.store import DecisionStore

DIGITS = 64
# What MLflow calls the git trees that the record of a run has.
TREES = {"src": "git_tree_src"}


@dataclass(frozen=True)
class Chain:
    """A lineage.

    Attributes:
        pilot: The pilot's name.
        package: Its package's name.
        sources: The tables that were read, by system and name.
        stages: The pipeline's stages, in the order in which data flows.
        columns: The columns of data/records.parquet with their types, where the profile says.
        run: The run that made the model; None where none is on record.
        model: The model; None when no model had a part.
        in_force: The control state; None where there is none.
        decided: The decision that was asked for, if any.
        remote: Where the code's repository comes from; empty where that is no web address.
        troubles: Where the chain is broken or something is missing.
    """

    pilot: str
    package: str
    sources: list[Source]
    stages: list[Stage]
    columns: dict[str, str]
    run: Run | None
    model: Model | None
    in_force: InForce | None
    decided: Decided | None
    remote: str
    troubles: list[Trouble]

    @property
    def trained_on(self) -> dict[str, str]:
        """DVC's MD5 of the data that the model was fitted to, by path; empty where no record says."""
        fitting = next((stage for stage in self.stages if layout.MODEL.as_posix() in stage.outs), None)
        if fitting is not None:
            return dict(fitting.ins)
        features = layout.FEATURES.as_posix()
        known = self.run.datasets if self.run is not None else {}
        return {features: known[features]} if features in known else {}

    @property
    def broken(self) -> bool:
        """Whether two records contradict each other."""
        return any(trouble.kind == "broken" for trouble in self.troubles)

    def document(self) -> dict[str, Any]:
        """The whole as JSON."""
        return {"schema_version": 1, "trained_on": self.trained_on, **asdict(self)}


def trace(settings: Settings, *, model: str = "", decision: str = "") -> Chain:
    """Follow a model back to its sources.

    Args:
        settings: This pilot's settings.
        model: The beginning of its digest; by default the model of the last run.
        decision: A decision's id; the model is then the one that was assigned.

    Raises:
        PilotError: No such decision or model is known here.
        Inconclusive: Nothing was run here yet.
        StoreUnavailable: The store does not answer.
    """
    decided = _decided(settings, decision) if decision else None
    troubles: list[Trouble] = []
    if decided is not None and decided.model is None:
        return Chain(
            pilot=settings.pilot.name,
            package=settings.pilot.package,
            sources=[],
            stages=[],
            columns={},
            run=None,
            model=None,
            in_force=_in_force(settings, troubles)[0],
            decided=decided,
            remote="",
            troubles=troubles,
        )
    wanted = str(decided.model) if decided is not None else _wanted(settings, model)
    kept, run = _run(settings, wanted, troubles)
    stages = _stages(kept, run, troubles) if kept is not None else []
    sources = list(_sources(settings, kept, stages, troubles)) if kept is not None else []
    in_force, roles = _in_force(settings, troubles)
    return Chain(
        pilot=settings.pilot.name,
        package=settings.pilot.package,
        sources=sources,
        stages=stages,
        columns=_columns(kept, "records") if kept is not None else {},
        run=run,
        model=_model(settings, wanted, run, roles.get(wanted, ()), troubles),
        in_force=in_force,
        decided=decided,
        remote=lineage.remote(settings.root),
        troubles=troubles,
    )


def _decided(settings: Settings, decision_id: str) -> Decided:
    unknown = PilotError(
        f"no decision {decision_id[:64]!r} is on record",
        where="the store ([store] url in pilot.toml)",
        mend="Give the decision_id as the answer had it; another host's service may have another store.",
    )
    url = settings.sqlite_url(settings.store.url)
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").is_file():
        raise unknown  # asking would make one
    store = DecisionStore(url)
    try:
        found = store.get(decision_id)
    finally:
        store.close()
    if found is None:
        raise unknown
    return Decided(
        id=found.decision_id,
        at=found.decided_at,
        served_by=found.served_by,
        assigned=found.assigned,
        why=found.why,
        model=found.model_digest,
        stage=found.stage,
        revision=found.revision,
        sandbox=found.sandbox,
    )


def _wanted(settings: Settings, beginning: str) -> str:
    """The digest that was meant."""
    here = Kept(settings.root)
    last = here.run()
    packaged = {manifest.digest for _, manifest in _packages(settings)}
    if not beginning:
        if last is not None:
            return last.model
        if (made := _manifest(settings.path(layout.PACKAGE))) is not None:
            return made.digest
        raise Inconclusive("no run is on record here", where=layout.RUN.as_posix(), mend="`pilot run`.")
    if not set(beginning) <= set("0123456789abcdef") or len(beginning) > DIGITS:
        raise PilotError(
            "not the beginning of a model's digest", where="--model", mend="`pilot status` shows digests."
        )
    known = packaged | ({last.model} if last is not None else set())
    matching = sorted(digest for digest in known if digest.startswith(beginning))
    if len(matching) > 1:
        raise PilotError(
            f"{len(matching)} models begin so: {', '.join(each[:12] for each in matching[:4])}",
            where="--model",
            mend="Give more of its digits.",
        )
    if matching:
        return matching[0]
    kept = runs.committed(settings.root, beginning)
    found = kept.run() if kept is not None else None
    if found is not None:
        return found.model
    if len(beginning) == DIGITS:
        return beginning  # MLflow may know it
    raise PilotError(
        f"no model {beginning[:12]} is known here",
        where="--model",
        mend="`pilot status` shows digests; of a model made elsewhere, give all 64 digits.",
    )


def _run(settings: Settings, digest: str, troubles: list[Trouble]) -> tuple[Kept | None, Run | None]:
    """The run that made a model, and where its files are."""
    here = Kept(settings.root)
    found = here.run()
    if found is not None and found.model == digest:
        return here, here.told(found)
    kept = runs.committed(settings.root, digest)
    if kept is not None and (found := kept.run()) is not None:
        return kept, kept.told(found)
    mend = "Fetch the commits of that run, or ask in the clone that made it."
    if here.run() is None and (made := _manifest(settings.path(layout.PACKAGE))) and made.digest == digest:
        what = "it is missing or cannot be read: when the run ended, and on what code, is not known"
        troubles.append(Trouble("missing", str(layout.RUN), what, "`pilot run`, or `git checkout` the file."))
        return here, None
    tracked = tracking.find(settings, digest)
    if tracked is None:
        asked = "evidence/ and the commits here name none, and MLflow names none or cannot be asked"
        what = f"no run that made the model {digest[:12]} is on record: {asked}"
        troubles.append(Trouble("missing", str(layout.RUN), what, mend))
        return None, None
    what = f"no commit here holds the run of the model {digest[:12]}; MLflow names its data and code"
    troubles.append(Trouble("missing", str(layout.LOCK), what, mend))
    trees = {name: tracked.tags[tag] for name, tag in TREES.items() if tag in tracked.tags}
    data = tracked.tags.get("data_digest", "")
    origin = tracked.tags.get("origin", "")
    run = Run("mlflow", tracked.run, "", "", trees, origin, data, dict(tracked.datasets))
    return None, run


def _stages(kept: Kept, run: Run | None, troubles: list[Trouble]) -> list[Stage]:
    content, stages = kept.read(layout.LOCK), kept.stages()
    where = str(layout.LOCK)
    mend = "`pilot run`, or restore dvc.lock and evidence/ as they were committed together."
    if content is None or stages is None:
        what = "it is missing" if content is None else "it cannot be read"
        troubles.append(Trouble("missing", where, what, mend))
        return []
    if run is not None and hashlib.sha256(content).hexdigest() != run.dvc_lock:
        what = f"it is not the one of the run: {layout.RUN} states another hash"
        troubles.append(Trouble("broken", where, what, mend))
    made = {path: (stage.name, md5) for stage in stages for path, md5 in stage.outs.items()}
    for stage in stages:
        for path, md5 in stage.ins.items():
            if path in made and made[path][1] != md5:
                what = f"{stage.name} read another {path} than {made[path][0]} wrote"
                troubles.append(Trouble("broken", where, what, mend))
    for file in (layout.INGEST, layout.PROFILE):
        found, name = kept.read(file), file.as_posix()
        if found is not None and name in made and hashlib.md5(found).hexdigest() != made[name][1]:
            what = f"it is not what {made[name][0]} wrote: dvc.lock states another hash"
            troubles.append(Trouble("broken", name, what, mend))
    return stages


def _sources(
    settings: Settings, kept: Kept, stages: list[Stage], troubles: list[Trouble]
) -> Iterator[Source]:
    ingested = (kept.json(layout.INGEST) or {}).get("tables")
    if not isinstance(ingested, dict):
        what = "it is missing or cannot be read: which system each table came from is not known"
        mend = "`pilot run`, or restore it as it was committed."
        troubles.append(Trouble("missing", layout.INGEST.as_posix(), what, mend))
        ingested = {}
    run = kept.run()
    rows = (run.origin if run is not None else kept.json(layout.ORIGIN) or {}).get("rows")
    read = {name: said for name, said in ingested.items() if isinstance(said, dict)}
    numbers = rows if isinstance(rows, dict) else {name: said.get("rows") for name, said in read.items()}
    systems = {name: str(read.get(name, {}).get("system", "")) for name in {*read, *numbers}}
    for name in sorted(systems, key=lambda table: (systems[table], table)):
        declared = settings.sources.get(systems[name])
        number = numbers.get(name)
        yield Source(
            system=systems[name],
            kind=declared.kind if declared is not None else "",
            uri=_address(declared),
            table=str(name),
            rows=number if isinstance(number, int) else 0,
            columns=_columns(kept, f"raw.{name}"),
        )


def _address(declared: Any) -> str:
    """Where a system is, without account, password and options."""
    where = str(getattr(declared, "url", None) or getattr(declared, "path", None) or "")
    if not where or where == EMBEDDED:
        return ""
    if "://" not in where:
        return f"file:{quote(where)}"
    parts = urlsplit(without_account(where))
    return f"{parts.scheme}://{parts.netloc}{parts.path}"


def _columns(kept: Kept, table: str) -> dict[str, str]:
    try:
        found = (kept.json(layout.PROFILE) or {})["tables"][table]["columns"]
        return {str(name): str(said["type"]) for name, said in found.items()}
    except (KeyError, TypeError, AttributeError):
        return {}


def _packages(settings: Settings) -> Iterator[tuple[Path, Manifest]]:
    """The packages that lie here, whole or not."""
    for folder in [
        settings.path(layout.PACKAGE),
        *sorted(settings.path(settings.serving.models).glob("[!.]*")),
    ]:
        if (manifest := _manifest(folder)) is not None:
            yield folder, manifest


def _shown(settings: Settings, place: Path | str) -> str:
    """A path from the pilot's root on: what is above it names accounts, and a picture is committed."""
    path = Path(place)
    return (path.relative_to(settings.root) if path.is_relative_to(settings.root) else path).as_posix()


def _manifest(folder: Path) -> Manifest | None:
    try:
        return load_manifest(folder)
    except PilotError:
        return None


def _model(
    settings: Settings, digest: str, run: Run | None, roles: tuple[str, ...], troubles: list[Trouble]
) -> Model:
    found = [(folder, each) for folder, each in _packages(settings) if each.digest == digest]
    if not found:
        what = f"the package of the model {digest[:12]} is not here"
        mend = (
            "Copy it from the host that serves it, or from MLflow; with the run's data, `pilot run` makes it."
        )
        troubles.append(Trouble("missing", str(settings.serving.models), what, mend))
        return Model(digest, "", (), 0, roles)
    for folder, _ in found:
        try:
            verify(folder, digest)
        except PilotError as error:
            troubles.append(Trouble("broken", _shown(settings, error.where), error.what, error.mend))
    folder, manifest = found[0]
    if run is not None and run.data != manifest.data:
        what = "it was made of other data than the run on record"
        mend = "`pilot run` again: the record and the package belong together."
        troubles.append(Trouble("broken", _shown(settings, folder), what, mend))
    return Model(digest, _shown(settings, folder), manifest.features, len(manifest.files), roles)


def _in_force(
    settings: Settings, troubles: list[Trouble]
) -> tuple[InForce | None, dict[str, tuple[str, ...]]]:
    """The control state, and what each model is in it."""
    folder = settings.path(settings.control.folder)
    try:
        state = read_state(folder)
    except StateUnreadable:
        what = "the control state cannot be read: who may decide now is not known"
        troubles.append(Trouble("missing", _shown(settings, folder), what, "`pilot status` says why."))
        return None, {}
    if state is None:
        return None, {}
    roles: dict[str, tuple[str, ...]] = {}
    for name, slot in (("champion", state.champion), ("challenger", state.challenger)):
        if slot is not None:
            roles[slot.digest] = (*roles.get(slot.digest, ()), name)
    stopped = state.latched or settings_control(settings).killed()
    return InForce(state.stage, state.rev, stopped), roles
