"""From a decision back to the sources: what is told, missing or contradicts, and nothing of anybody."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from harness import tracking
from harness.lineage import drawn, events, trace
from harness.lineage.openlineage import lines
from harness.lineage.picture import CHARACTERS, shortened
from harness.pipeline import layout, record
from harness.pipeline.lineage import remote
from harness.pipeline.manifest import Manifest
from harness.store import Decision, DecisionStore

Command = Callable[..., subprocess.CompletedProcess[str]]
IDENTITY = ["-c", "user.name=test", "-c", "user.email=test@example.invalid", "-c", "commit.gpgsign=false"]
# What is about somebody, or lets somebody in.
NOBODYS = ("Äcker-7", "r-1", "80.0", "maize", "A. Person", "reader", "pass-word", "token=")
PROFILE = {
    "tables": {
        "raw.readings": {"columns": {"reading": {"type": "string"}, "dryness": {"type": "float64"}}},
        "records": {"columns": {"reading": {"type": "string"}}},
    }
}
INGEST = {"tables": {"readings": {"system": "probes", "rows": 9}, "days": {"system": "weather", "rows": 4}}}


def md5(of: str) -> str:
    return hashlib.md5(of.encode()).hexdigest()


def stage(ins: list[str], outs: list[str], **more: Any) -> dict[str, Any]:
    code = ["harness/constraints.txt", "src/dryfield"]
    deps = [{"path": path, "hash": "md5", "md5": md5(path)} for path in [*code, *ins]]
    return {"deps": deps, "outs": [{"path": path, "md5": md5(path)} for path in outs], **more}


def lock(root: Path) -> dict[str, Any]:
    """A run's lock file, its stages in no order, with the true hashes of what lies beside it."""
    asked = {"pilot.toml": {"data": {"probes": {"accepted": {"single:x": "A. Person, 2026-05-04: planned"}}}}}
    stages = {
        "train": stage(["data/features"], ["data/model"], params={"params.yaml": {"train": {"weight": 1.5}}}),
        "package": stage(["data/features", "data/model", "data/origin.json"], ["data/package"]),
        "features": stage(["data/valid.parquet"], ["data/features"], params=asked),
        "validate": stage(["data/records.parquet"], ["data/valid.parquet"]),
        "profile": stage(["data/raw", "data/records.parquet"], ["evidence/profile.json"]),
        "ingest": stage([], ["data/raw", "data/records.parquet", "data/origin.json", "evidence/ingest.json"]),
    }
    for each in stages.values():
        for out in each["outs"]:
            if out["path"].startswith("evidence/"):
                out["md5"] = hashlib.md5((root / out["path"]).read_bytes()).hexdigest()
    return {"schema": "2.0", "stages": stages}


class Traced:
    """The tiny pilot after a run."""

    def __init__(self, tiny: Any) -> None:
        self.tiny, self.root = tiny, tiny.root
        self.manifest = self.run(weight=1.0)

    def run(self, *, weight: float) -> Manifest:
        manifest: Manifest = self.tiny.package(weight=weight)
        layout.write_json(self.root / layout.INGEST, INGEST)
        layout.write_json(self.root / layout.PROFILE, PROFILE)
        (self.root / layout.LOCK).write_text(yaml.safe_dump(lock(self.root), sort_keys=False))
        self.note(manifest.digest)
        return manifest

    def note(self, digest: str) -> None:
        """Write the record of the run as `pilot run` does."""
        run = record.Run(
            produced_at=datetime(2026, 3, 1, 12, tzinfo=UTC),
            trees={"src": "5" * 40, "harness": "6" * 40},
            dvc_lock=record.sha256(self.root / layout.LOCK),
            model=digest,
            origin={"origin": "simulated", "digest": "d" * 64, "rows": {"readings": 7, "days": 4}},
        )
        layout.write_json(self.root / layout.RUN, run.model_dump(mode="json"))

    def git(self, *arguments: str) -> str:
        command = ["git", *IDENTITY, *arguments]
        done = subprocess.run(command, cwd=self.root, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def commit(self) -> str:
        if not (self.root / ".git").exists():
            self.git("init", "-q", "-b", "main")
        self.git("add", "-f", "dvc.lock", "evidence")
        self.git("commit", "-q", "-m", "a run")
        return self.git("rev-parse", "HEAD")

    def decided(self, digest: str | None, served_by: str = "model") -> str:
        """Put a decision on record; gives its id."""
        settings = self.tiny.settings()
        store = DecisionStore(settings.sqlite_url(settings.store.url))
        store.record(
            Decision(
                decision_id=(name := str(uuid.uuid4())),
                decided_at="2026-03-02T08:00:00.000000+00:00",
                record_key="r-1",
                entity="Äcker-7",
                record=self.tiny.record,
                decision="water",
                score=0.8,
                reasons=[{"feature": "crop", "value": "maize", "effect": 1.0}],
                served_by=served_by,
                assigned="champion" if digest else "fallback",
                why="assigned" if served_by == "model" else "killed",
                model_digest=digest,
                revision=12,
                bucket=7,
                stage="canary",
                sandbox=False,
                elapsed_ms=1.0,
            )
        )
        store.close()
        return name


@pytest.fixture
def traced(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> Traced:
    # The folder is below no repository but one of the test's own.
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tiny.root.parent))
    return Traced(tiny)


def assert_of_nobody(text: str) -> None:
    assert not [each for each in NOBODYS if each in text]


# ---------------------------------------------------------------- what is told
def test_a_decision_leads_to_the_bytes_its_model_was_trained_on(traced: Traced, pilot_here: Command) -> None:
    traced.tiny.champion(traced.manifest.digest, rev=3)
    done = pilot_here("lineage", "--decision", traced.decided(traced.manifest.digest))
    assert (done.returncode, done.stderr) == (0, "")
    assert "served by the model (assigned), assigned to the champion" in done.stdout
    assert "stage canary, control revision 12" in done.stdout
    assert f"model     {traced.manifest.digest}" in done.stdout
    assert "in force: stage sandbox, revision 3; this model: champion" in done.stdout
    assert f"dvc.lock    sha256 {record.sha256(traced.root / layout.LOCK)}" in done.stdout
    assert f"trained on  data/features, md5 {md5('data/features')}" in done.stdout
    assert f"src         git tree {'5' * 40}" in done.stdout
    assert "train.weight = 1.5" in done.stdout
    assert "source    probes (csv), table readings: 7 rows" in done.stdout
    order = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("stage  ")]
    assert order == ["package", "train", "features", "validate", "profile", "ingest"]
    assert done.stdout.count(md5("src/dryfield")) == 1, "what all stages ran is told once"
    assert_of_nobody(done.stdout)


def test_nothing_of_anybody_is_told_in_any_form(
    traced: Traced, pilot_here: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "postgresql://reader:pass-word/2@1@db.example.org:5433/crops?sslpassword=pass-word&token=1"
    monkeypatch.setenv("PILOT_SOURCES__WEATHER__URL", url)
    name = traced.decided(traced.manifest.digest)
    told, picture = tmp_path / "events.jsonl", tmp_path / "lineage.svg"
    done = pilot_here(
        "lineage", "--decision", name, "--json", "--openlineage", str(told), "--svg", str(picture)
    )
    assert done.returncode == 0, done.stderr
    for text in (done.stdout, told.read_text(), picture.read_text()):
        assert_of_nobody(text)
    assert '"postgresql://db.example.org:5433/crops"' in told.read_text()
    document = json.loads(done.stdout)
    assert document["decided"]["model"] == traced.manifest.digest
    assert document["trained_on"] == {"data/features": md5("data/features")}


def test_a_decision_without_a_model_ends_with_the_fallback(traced: Traced, pilot_here: Command) -> None:
    done = pilot_here("lineage", "--decision", traced.decided(None, "fallback"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "no model had a part in it: fallback.py decided" in done.stdout
    assert traced.manifest.digest not in done.stdout


def test_the_run_of_an_earlier_model_is_found_among_the_commits(
    traced: Traced, pilot_here: Command, tmp_path: Path
) -> None:
    first = traced.commit()
    before = record.sha256(traced.root / layout.LOCK)
    locked = lock(traced.root)
    again = traced.run(weight=2.0)
    locked["stages"]["train"]["params"]["params.yaml"]["train"]["weight"] = 2.0
    (traced.root / layout.LOCK).write_text(yaml.safe_dump(locked))
    traced.note(again.digest)
    traced.commit()
    done = pilot_here("lineage", "--decision", traced.decided(traced.manifest.digest))
    assert (done.returncode, done.stderr) == (0, "")
    assert f"(commit {first})" in done.stdout
    assert f"sha256 {before}" in done.stdout
    assert "train.weight = 1.5" in done.stdout
    assert f"model     {again.digest}" in pilot_here("lineage").stdout
    # Also where the package is no longer here.
    shutil.rmtree(traced.tiny.models / traced.manifest.digest)
    done = pilot_here("lineage", "--model", traced.manifest.digest[:10])
    assert done.returncode == 3
    assert "is not here" in done.stderr
    assert f"(commit {first})" in done.stdout


# ---------------------------------------------------------------- what contradicts, and what is missing
def edited_lock(traced: Traced) -> None:
    file = traced.root / layout.LOCK
    file.write_text(file.read_text().replace("1.5", "2.5"))


def other_bytes(traced: Traced) -> None:
    """A lock file as a careless merge leaves it, and a record of a run that goes with it."""
    locked = lock(traced.root)
    locked["stages"]["train"]["deps"][-1]["md5"] = "0" * 32
    (traced.root / layout.LOCK).write_text(yaml.safe_dump(locked))
    traced.note(traced.manifest.digest)


def edited_evidence(traced: Traced) -> None:
    layout.write_json(traced.root / layout.INGEST, {"tables": {"readings": {"system": "weather", "rows": 9}}})


def changed_package(traced: Traced) -> None:
    """The one that is served; the one that the run made is whole."""
    file = traced.tiny.models / traced.manifest.digest / "code" / "features.py"
    file.write_text("def features():\n    return {}\n")


def strange_evidence(traced: Traced) -> None:
    layout.write_json(traced.root / layout.INGEST, {"tables": {"readings": 3}})
    layout.write_json(
        traced.root / layout.PROFILE, {"tables": {"raw.readings": [1], "records": {"columns": 3}}}
    )


def other_data(traced: Traced) -> None:
    run = record.read(traced.root)
    other = run.model_copy(update={"origin": {**run.origin, "digest": "e" * 64}})
    layout.write_json(traced.root / layout.RUN, other.model_dump(mode="json"))


def no_lock(traced: Traced) -> None:
    (traced.root / layout.LOCK).unlink()


def unreadable_lock(traced: Traced) -> None:
    (traced.root / layout.LOCK).write_text("stages: [")


def no_ingest(traced: Traced) -> None:
    (traced.root / layout.INGEST).unlink()


def no_record(traced: Traced) -> None:
    (traced.root / layout.RUN).unlink()


def no_package(traced: Traced) -> None:
    shutil.rmtree(traced.root / layout.PACKAGE)
    shutil.rmtree(traced.tiny.models)


def damaged_state(traced: Traced) -> None:
    traced.tiny.control.mkdir(parents=True)
    (traced.tiny.control / "state.json").write_text("{")


@pytest.mark.parametrize(
    ("fault", "code", "said"),
    [
        (edited_lock, 1, "dvc.lock: it is not the one of the run"),
        (other_bytes, 1, "train read another data/features than features wrote"),
        (edited_evidence, 1, "evidence/ingest.json: it is not what ingest wrote"),
        (strange_evidence, 1, "evidence/profile.json: it is not what profile wrote"),
        (changed_package, 1, "a file of the packaged model is changed"),
        (other_data, 1, "it was made of other data than the run on record"),
        (no_lock, 3, "dvc.lock: it is missing"),
        (unreadable_lock, 3, "dvc.lock: it cannot be read"),
        (no_ingest, 3, "which system each table came from is not known"),
        (no_record, 3, "evidence/run.json: it is missing or cannot be read"),
        (no_package, 3, "is not here. Copy it from the host that serves it"),
        (damaged_state, 3, "the control state cannot be read"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_fault_is_named_and_never_a_success(
    fault: Callable[[Traced], None], code: int, said: str, traced: Traced, pilot_here: Command, tmp_path: Path
) -> None:
    fault(traced)
    done = pilot_here("lineage", "--svg", str(tmp_path / "lineage.svg"))
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr
    assert str(traced.root) not in done.stdout + done.stderr, "where the pilot lies names an account"
    ElementTree.parse(tmp_path / "lineage.svg")
    told = tmp_path / "events.jsonl"
    if code == 1 or fault is no_record:
        done = pilot_here("lineage", "--openlineage", str(told))
        assert (done.returncode, told.exists()) == (code, False), "a catalogue is told nothing that is not so"


def test_a_model_that_nobody_knows_here_is_missing_and_not_invented(
    traced: Traced, pilot_here: Command
) -> None:
    done = pilot_here("lineage", "--decision", traced.decided("a" * 64))
    assert done.returncode == 3
    assert "no run that made the model aaaaaaaaaaaa is on record" in done.stderr
    assert "the package of the model aaaaaaaaaaaa is not here" in done.stderr
    assert traced.manifest.digest not in done.stdout


def test_what_mlflow_knows_of_a_run_is_told_when_nothing_else_does(
    traced: Traced, pilot_here: Command, empty_tracking: Path
) -> None:
    settings = traced.tiny.settings()
    assert tracking.find(settings, "b" * 64) is None
    assert not (traced.root / "var" / "mlflow").exists(), "asking makes no database"
    (traced.root / "var" / "mlflow").mkdir(parents=True)
    shutil.copy(empty_tracking, traced.root / "var" / "mlflow" / "mlflow.db")
    package = traced.root / layout.PACKAGE
    used = tracking.Dataset("data/features", md5("older"), "training", traced.root / layout.FEATURES)
    tags = {"git_tree_src": "7" * 40, "origin": "sample", "data_digest": "f" * 64}
    tracking.publish(settings, tracking.Run("b" * 64, {}, {}, [used], tags, package))
    done = pilot_here("lineage", "--model", "b" * 64)
    assert done.returncode == 3
    assert "MLflow names its data and code" in done.stderr
    assert f"trained on  data/features, md5 {md5('older')}" in done.stdout
    assert f"src         git tree {'7' * 40}" in done.stdout
    assert f"sample, sha256 {'f' * 64}" in done.stdout


def test_an_mlflow_that_does_not_answer_keeps_nothing_away(traced: Traced, pilot_here: Command) -> None:
    nowhere = {"PILOT_TRACKING__URI": "http://127.0.0.1:1", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    assert pilot_here("lineage", **nowhere).returncode == 0
    done = pilot_here("lineage", "--model", "b" * 64, **nowhere)
    assert (done.returncode, "MLflow names none or cannot be asked" in done.stderr) == (3, True), done.stderr


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("--decision", "nobody"), "no decision 'nobody' is on record"),
        (("--model", "abc"), "no model abc is known here"),
        (("--model", "ABC"), "not the beginning of a model's digest"),
        (("--model", "abc", "--decision", "x"), "Give --decision or --model"),
    ],
)
def test_what_nobody_knows_is_wrong_use(
    asked: tuple[str, ...], said: str, traced: Traced, pilot_here: Command
) -> None:
    done = pilot_here("lineage", *asked)
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr
    assert not (traced.root / "var" / "decisions.db").exists(), "asking makes no store"


def test_before_the_first_run_there_is_nothing_to_follow(tiny: Any, pilot_here: Command) -> None:
    done = pilot_here("lineage")
    assert (done.returncode, "no run is on record here" in done.stderr) == (3, True)


# ---------------------------------------------------------------- OpenLineage
def facets_in(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        for name, inside in value.items():
            if name in ("facets", "inputFacets", "outputFacets"):
                yield from inside.values()
            yield from facets_in(inside)
    elif isinstance(value, list):
        for inside in value:
            yield from facets_in(inside)


def assert_conforms(event: dict[str, Any]) -> None:
    """What the specification 2-0-2 asks of a run event."""
    allowed = {"eventType", "eventTime", "run", "job", "inputs", "outputs", "producer", "schemaURL"}
    assert set(event) == allowed
    assert event["eventType"] in ("START", "COMPLETE")
    assert datetime.fromisoformat(event["eventTime"]).tzinfo is not None
    assert str(uuid.UUID(event["run"]["runId"])) == event["run"]["runId"]
    assert event["schemaURL"] == "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
    assert event["producer"].startswith("urn:")
    for each in [event["job"], *event["inputs"], *event["outputs"]]:
        assert each["namespace"]
        assert each["name"]
    for facet in facets_in(event):
        name = facet["_schemaURL"].rpartition("/")[2]
        assert f"/{name}.json#/$defs/{name}" in facet["_schemaURL"]
        assert facet["_producer"] == event["producer"]


def test_the_events_conform_and_are_the_same_for_the_same_run(traced: Traced) -> None:
    settings = traced.tiny.settings()
    decision = traced.decided(traced.manifest.digest)
    found = events(trace(settings, decision=decision))
    assert lines(events(trace(settings, decision=decision))) == lines(found)
    for event in found:
        assert_conforms(event)
    kinds: dict[str, list[str]] = {}
    for event in found:
        kinds.setdefault(event["run"]["runId"], []).append(event["eventType"])
    assert len(kinds) == 8, "the pipeline, six stages and the decision"
    assert all(each == ["START", "COMPLETE"] for each in kinds.values())
    assert {event["eventTime"] for event in found} == {
        "2026-03-01T12:00:00+00:00",
        "2026-03-02T08:00:00.000000+00:00",
    }
    parent = found[0]["run"]["runId"]
    stages = [event for event in found if event["job"]["name"].startswith("pipeline.")]
    assert {event["run"]["facets"]["parent"]["run"]["runId"] for event in stages} == {parent}


def test_the_events_join_the_sources_to_the_model_and_the_decision(traced: Traced) -> None:
    found = events(trace(traced.tiny.settings(), decision=traced.decided(traced.manifest.digest)))
    done = {event["job"]["name"]: event for event in found if event["eventType"] == "COMPLETE"}
    ingest = done["pipeline.ingest"]["inputs"]
    assert [(each["namespace"], each["name"]) for each in ingest] == [
        ("dryfield.probes", "readings"),
        ("dryfield.weather", "days"),
    ]
    assert ingest[0]["inputFacets"]["inputStatistics"]["rowCount"] == 7
    assert [each["name"] for each in ingest[0]["facets"]["schema"]["fields"]] == ["dryness", "reading"]
    (trained,) = done["pipeline.train"]["inputs"]
    assert trained["facets"]["version"]["datasetVersion"] == f"md5:{md5('data/features')}"
    assert [each["name"] for each in trained["facets"]["schema"]["fields"]] == ["dryness", "depth"]
    (used,) = done["decide"]["inputs"]
    assert used["facets"]["version"]["datasetVersion"] == f"sha256:{traced.manifest.digest}"
    assert used in done["pipeline.package"]["outputs"]
    location = done["pipeline.train"]["job"]["facets"]["sourceCodeLocation"]
    assert (location["version"], location["path"]) == ("5" * 40, "src/dryfield")


def test_another_run_has_other_ids(traced: Traced) -> None:
    first = {event["run"]["runId"] for event in events(trace(traced.tiny.settings()))}
    traced.run(weight=2.0)
    second = {event["run"]["runId"] for event in events(trace(traced.tiny.settings()))}
    assert not first & second


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://reader:pass-word@git.example.org/fields.git", "https://git.example.org/fields.git"),
        ("https://reader:pass-word/2@git.example.org/fields.git", "https://git.example.org/fields.git"),
        ("git@git.example.org:team/fields.git", "ssh://git.example.org/team/fields.git"),
        ("ssh://git@git.example.org:2222/fields.git", "ssh://git.example.org:2222/fields.git"),
        ("/srv/of-reader/fields", ""),
    ],
)
def test_a_repository_is_named_without_accounts(url: str, told: str, traced: Traced) -> None:
    traced.git("init", "-q")
    traced.git("remote", "add", "origin", url)
    assert remote(traced.root) == told


# ---------------------------------------------------------------- the picture
def test_the_picture_keeps_every_text_in_its_box_and_every_box_apart(
    traced: Traced, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = "a_very_long_name_of_something_with_字字字字字字字字字字字字字字_and_<b>&more"
    locked = lock(traced.root)
    for each in locked["stages"].values():
        each["outs"].append({"path": f"data/{long}{len(each['deps'])}", "md5": "1" * 32})
    locked["stages"][long] = stage(["data/features"], [long])
    (traced.root / layout.LOCK).write_text(yaml.safe_dump(locked))
    traced.note(traced.manifest.digest)
    chain = trace(traced.tiny.settings(), decision=traced.decided(traced.manifest.digest))
    picture = drawn(chain)
    assert picture == drawn(chain)
    parsed = ElementTree.fromstring(picture)
    tag = "{http://www.w3.org/2000/svg}"
    whole, *boxes = [
        tuple(int(each.attrib.get(name, 0)) for name in ("x", "y", "width", "height"))
        for each in parsed.iter(f"{tag}rect")
    ]
    assert len(boxes) == 2 + 7 + 2, "two systems, seven stages, the model and the decision"
    for at, (x, y, width, height) in enumerate(boxes):
        assert x + width <= whole[2]
        assert y + height <= whole[3]
        for left, top, wide, high in boxes[at + 1 :]:
            assert x + width < left or left + wide < x or y + height < top or top + high < y
    for text in parsed.iter(f"{tag}text"):
        if text.attrib["class"] not in ("t", "n", "d"):
            continue
        x, y = int(text.attrib["x"]), int(text.attrib["y"])
        (box,) = [
            each for each in boxes if each[0] < x < each[0] + each[2] and each[1] < y < each[1] + each[3]
        ]
        wide = sum(2 if ord(each) > 0x2E80 else 1 for each in text.text or "")
        pitch = 7.6 if text.attrib["class"] == "t" else 6.7
        assert x + wide * pitch <= box[0] + box[2]
    assert "md5 111111111111" in picture


def test_a_text_that_is_too_long_keeps_its_ends() -> None:
    assert shortened("data/valid.parquet") == "data/valid.parquet"
    short = shortened("data/a_name_that_goes_on_and_on.parquet")
    assert (len(short), short[:5], short[-8:]) == (CHARACTERS, "data/", ".parquet")
    assert shortened("字" * 30).count("字") == 11
