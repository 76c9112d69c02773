"""A lineage as OpenLineage run events, for a catalogue that collects those of other systems as well.

The same run gives the same events: ids are made of hashes, and the times are those of the records. DVC keeps
no times, so every event of a run bears the time at which its record was written.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Literal

from harness import __version__
from harness.errors import CheckFailed, Inconclusive
from harness.lineage.chain import Chain
from harness.lineage.steps import Run, Source, Stage
from harness.pipeline import layout

SPEC = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
PRODUCER = f"urn:pilot-template:harness:{__version__}"
FACETS = "https://openlineage.io/spec/facets"
IDS = uuid.uuid5(uuid.NAMESPACE_URL, "urn:pilot-template:lineage")

Event = dict[str, Any]


def events(chain: Chain) -> list[Event]:
    """The run, its stages in order and the decision that was asked for: a START and a COMPLETE for each.

    Raises:
        CheckFailed: The chain is broken, and what it would tell a catalogue is not so.
        Inconclusive: The run is not on record, so that nobody knows when it was.
    """
    broken = next((trouble for trouble in chain.troubles if trouble.kind == "broken"), None)
    if broken is not None:
        raise CheckFailed(broken.what, where=broken.where, mend=broken.mend)
    if chain.run is None or not chain.run.at:
        missing = next((trouble for trouble in chain.troubles), None)
        raise Inconclusive(
            missing.what if missing else "no model had a part in this decision",
            where=missing.where if missing else "pilot lineage",
            mend=missing.mend if missing else "Ask without --openlineage.",
        )
    return list(_events(chain, chain.run))


def lines(found: list[Event]) -> str:
    """The events as JSON lines."""
    return "".join(json.dumps(event, sort_keys=True, ensure_ascii=False) + "\n" for event in found)


def _events(chain: Chain, run: Run) -> Iterator[Event]:
    model = chain.model.digest if chain.model is not None else ""
    parent = str(uuid.uuid5(IDS, "\n".join([chain.package, run.dvc_lock, model, run.at])))
    whole = {
        "runId": parent,
        "facets": {"tags": _facet("TagsRunFacet", "1-0-0", tags=_tags(run))},
    }
    pipeline = _job(chain, "pipeline", "PIPELINE", run)
    yield _event("START", run.at, whole, pipeline)
    above = {"run": {"runId": parent}, "job": {"namespace": chain.package, "name": "pipeline"}}
    for stage in chain.stages:
        said = json.dumps(asdict(stage), sort_keys=True, default=str)
        facets = {"parent": _facet("ParentRunFacet", "1-2-0", **above)}
        if stage.params:
            parameters = [{"key": name, "value": str(value)} for name, value in sorted(stage.params.items())]
            facets["executionParameters"] = _facet(
                "ExecutionParametersRunFacet", "1-0-0", parameters=parameters
            )
        of_stage = {"runId": str(uuid.uuid5(IDS, f"{parent}\n{said}")), "facets": facets}
        job = _job(chain, f"pipeline.{stage.name}", "STAGE", run)
        inputs, outputs = _inputs(chain, stage), _outputs(chain, stage)
        yield _event("START", run.at, of_stage, job, inputs)
        yield _event("COMPLETE", run.at, of_stage, job, inputs, outputs)
    yield _event("COMPLETE", run.at, whole, pipeline)
    if chain.decided is not None and chain.decided.model is not None:
        deciding = {"runId": str(uuid.uuid5(IDS, f"decision\n{chain.decided.id}"))}
        job = _job(chain, "decide", "DECISION", None)
        inputs = [_model(chain, chain.decided.model)]
        outputs = [{"namespace": chain.package, "name": "decisions"}]
        yield _event("START", chain.decided.at, deciding, job, inputs)
        yield _event("COMPLETE", chain.decided.at, deciding, job, inputs, outputs)


def _event(
    kind: Literal["START", "COMPLETE"],
    at: str,
    run: dict[str, Any],
    job: dict[str, Any],
    inputs: list[dict[str, Any]] | None = None,
    outputs: list[dict[str, Any]] | None = None,
) -> Event:
    return {
        "eventType": kind,
        "eventTime": at,
        "run": run,
        "job": job,
        "inputs": inputs or [],
        "outputs": outputs or [],
        "producer": PRODUCER,
        "schemaURL": SPEC,
    }


def _job(chain: Chain, name: str, kind: str, run: Run | None) -> dict[str, Any]:
    facets = {
        "jobType": _facet(
            "JobTypeJobFacet", "2-0-4", processingType="BATCH", integration="PILOT", jobType=kind
        )
    }
    if run is not None and run.trees.get("src"):
        tree = run.trees["src"]
        repository = {"repoUrl": chain.remote} if chain.remote else {}
        facets["sourceCodeLocation"] = _facet(
            "SourceCodeLocationJobFacet",
            "1-1-0",
            type="git",
            url=chain.remote or f"urn:git:tree:{tree}",
            path=f"src/{chain.package}",
            version=tree,
            **repository,
        )
    return {"namespace": chain.package, "name": name, "facets": facets}


def _inputs(chain: Chain, stage: Stage) -> list[dict[str, Any]]:
    # Ingest alone reads what DVC cannot know.
    read = [_source(chain, each) for each in chain.sources] if _writes(stage, layout.SNAPSHOT) else []
    return read + [_data(chain, path, md5) for path, md5 in sorted(stage.ins.items())]


def _outputs(chain: Chain, stage: Stage) -> list[dict[str, Any]]:
    wrote = [_data(chain, path, md5) for path, md5 in sorted(stage.outs.items())]
    if chain.model is not None and _writes(stage, layout.PACKAGE):
        wrote.append(_model(chain, chain.model.digest))
    return wrote


def _writes(stage: Stage, path: Any) -> bool:
    return path.as_posix() in stage.outs


def _source(chain: Chain, source: Source) -> dict[str, Any]:
    address = {"uri": source.uri} if source.uri else {}
    facets = {
        "dataSource": _facet(
            "DatasourceDatasetFacet", "1-0-1", name=f"{chain.package}.{source.system or 'unknown'}", **address
        )
    }
    if source.columns:
        facets["schema"] = _schema(source.columns)
    statistics = _facet("InputStatisticsInputDatasetFacet", "1-0-0", rowCount=source.rows)
    return {
        "namespace": f"{chain.package}.{source.system or 'unknown'}",
        "name": source.table,
        "facets": facets,
        "inputFacets": {"inputStatistics": statistics},
    }


def _data(chain: Chain, path: str, md5: str) -> dict[str, Any]:
    facets = {"version": _facet("DatasetVersionDatasetFacet", "1-0-1", datasetVersion=f"md5:{md5}")}
    if path == layout.RECORDS.as_posix() and chain.columns:
        facets["schema"] = _schema(chain.columns)
    if path == layout.FEATURES.as_posix() and chain.model is not None and chain.model.features:
        facets["schema"] = _schema(dict.fromkeys(chain.model.features, ""))
    return {"namespace": chain.package, "name": path, "facets": facets}


def _model(chain: Chain, digest: str) -> dict[str, Any]:
    version = _facet("DatasetVersionDatasetFacet", "1-0-1", datasetVersion=f"sha256:{digest}")
    return {"namespace": chain.package, "name": "model", "facets": {"version": version}}


def _schema(columns: dict[str, str]) -> dict[str, Any]:
    fields = [{"name": name, **({"type": kind} if kind else {})} for name, kind in columns.items()]
    return _facet("SchemaDatasetFacet", "1-2-0", fields=fields)


def _tags(run: Run) -> list[dict[str, str]]:
    told = {
        "origin": run.origin,
        "data_digest": run.data,
        "dvc_lock_sha256": run.dvc_lock,
        "git_commit": run.name if run.place == "commit" else "",
        **{f"git_tree_{name}": tree for name, tree in run.trees.items()},
    }
    return [{"key": name, "value": value, "source": "PILOT"} for name, value in sorted(told.items()) if value]


def _facet(facet: str, facet_version: str, /, **said: Any) -> dict[str, Any]:
    return {
        "_producer": PRODUCER,
        "_schemaURL": f"{FACETS}/{facet_version}/{facet}.json#/$defs/{facet}",
        **said,
    }
