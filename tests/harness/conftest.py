"""A tiny pilot that waters fields, for tests of a harness that knows nothing of the template's example."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

import polars as pl
import psycopg
import pytest

import harness
from harness.control import Control, Slot, State, StateUnreadable, offer
from harness.control.state import write_state
from harness.files import whole_file
from harness.governance import document, markdown
from harness.pipeline import layout
from harness.pipeline.manifest import Manifest, build_package, keep
from harness.readiness import lock
from harness.serving.host import ModelHost, Rule
from harness.serving.server import build_service
from harness.serving.service import Service
from harness.settings import Settings, load_settings
from harness.simulate.embedded import server

PACKAGE = "dryfield"
FILES = {
    "__init__.py": "",
    "sources.py": """
raise RuntimeError("the service must not import sources.py")
""",
    "contract.py": """
from harness.pilot import Choice, Contract, Field

contract = Contract(
    key="reading",
    entity="plot",
    event_time="measured_on",
    label="withered",
    label_arrives_after_days=10,
    decision=Choice(above="water", below="skip", threshold=0.5),
    groups=("crop",),
    fields=(
        Field("reading", "text", "The reading's number"),
        Field("plot", "text", "The plot's number"),
        Field("measured_on", "date", "The day of the reading"),
        Field("dryness", "number", "How dry the soil is", unit="%", low=0, high=100),
        Field("depth_cm", "integer", "How deep the probe sits", unit="cm", low=1, high=200),
        Field("crop", "text", "What grows", categories=("barley", "maize"), required=False),
        Field("covered", "boolean", "Whether it grows under a roof", required=False),
        Field("slope", "number", "How steep the plot is; of no particular range", required=False),
    ),
)
""",
    "features.py": """
import narwhals as nw

def features():
    return {"dryness": nw.col("dryness") / 100, "depth": nw.col("depth_cm")}
""",
    "model.py": """
import json
from pathlib import Path

from harness.pilot import Reason

hook = None

def train(features, label, params):
    return {"weight": float(params["weight"])}

def save(model, folder):
    (folder / "weights.json").write_text(json.dumps(model))

def load(folder):
    return json.loads((folder / "weights.json").read_text())

def predict(model, features):
    if hook is not None:
        return hook(model, features)
    if (told := _told("predict")) is not None:
        return told(model, features)
    from . import contract  # an import as late as this must leave no compiled file behind
    return features["dryness"].to_numpy() * model["weight"]

def reasons(model, features, count):
    if (told := _told("reasons")) is not None:
        return told(model, features)
    return [[Reason("dryness", dry, dry * model["weight"])][:count] for dry in features["dryness"]]

def _told(role):
    # What a test has this model do, in whichever process it runs.
    code = Path(__file__).parent
    file = code.parents[2] / "told" / code.parent.name / f"{role}.py"
    if not file.exists():
        return None
    names = {}
    exec(compile(file.read_text(), str(file), "exec"), names)
    return names[role]
""",
    "fallback.py": """
from harness.pilot import Answer, Reason

hook = None

def decide(record):
    if hook is not None:
        return hook(record)
    return Answer("skip", (Reason("a rule", record["crop"]),))
""",
}
TOLD = """
import ctypes, os, signal, sys, time
from pathlib import Path
import numpy as np
from harness.pilot import Reason
"""
TOML = """
[pilot]
name = "Dry field"
package = "dryfield"
purpose = "Which plots to water today"
use_case = "classification"
team = "fields"
owner = "owner@example.org"
on_call = "on-call@example.org"
risk_tier = "minimal"
data_classification = "internal"

[sources.probes]
kind = "csv"
path = "var/sources/probes"

[sources.weather]
kind = "postgres"
url = "embedded"

[serving]
port = 0
"""


@dataclass
class TinyPilot:
    """A pilot in a folder of its own; what it needs of a pipeline's results is put there by hand."""

    root: Path
    record: dict[str, Any] = field(
        default_factory=lambda: {
            "reading": "r-1",
            "plot": "Äcker-7",
            "measured_on": "2026-03-01",
            "dryness": 80.0,
            "depth_cm": 20,
            "crop": "maize",
            "covered": None,
            "slope": None,
        }
    )
    services: list[Service] = field(default_factory=list)
    reference: str = ""

    @property
    def control(self) -> Path:
        return self.root / "var" / "control"

    @property
    def models(self) -> Path:
        return self.root / "var" / "models"

    @property
    def toml(self) -> Path:
        return self.root / "pilot.toml"

    def settings(self) -> Settings:
        return load_settings(self.root)

    def package(self, *, weight: float = 1.0, origin: str = "simulated") -> Manifest:
        """Package a model as the pipeline's last stage does, and keep it where the service looks."""
        shutil.rmtree(self.root / layout.MODEL, ignore_errors=True)
        (self.root / layout.MODEL).mkdir(parents=True)
        (self.root / layout.MODEL / "weights.json").write_text(json.dumps({"weight": weight}))
        layout.write_json(self.root / layout.ORIGIN, {"origin": origin, "digest": "d" * 64})
        layout.write_json(self.root / layout.METRICS, {"model_beats_fallback": True})
        (self.root / layout.REFERENCE).write_text(self.reference or "{}")
        columns = ["dryness", "depth", layout.KEY, layout.LABEL, layout.TIME]
        (self.root / layout.FEATURES).mkdir(parents=True, exist_ok=True)
        pl.DataFrame({name: [0.0] for name in columns}).write_parquet(self.root / layout.TRAIN)
        build_package(self.settings())
        return keep(self.root / layout.PACKAGE, self.models)

    def offered(self, **options: Any) -> str:
        """Package a model and let it decide everything in the sandbox; gives its digest."""
        digest = self.package(**options).digest
        offer(self.control, digest=digest, flag_key=PACKAGE, reason="a test")
        return digest

    def put(self, **changes: Any) -> State:
        """Put a state in force, whatever was there."""
        self.control.mkdir(parents=True, exist_ok=True)
        values = {
            "rev": 1,
            "stage": "sandbox",
            "flag_key": PACKAGE,
            "actor": "a test",
            "reason": "a test",
            "changed_at": "2026-01-01T00:00:00+00:00",
        }
        state = State(**{**values, **changes})
        write_state(self.control, state)
        return state

    def champion(self, digest: str, **changes: Any) -> State:
        return self.put(champion=Slot(digest=digest, pct=100), **changes)

    def service(self) -> Service:
        service = build_service(self.settings())
        self.services.append(service)
        with contextlib.suppress(StateUnreadable):
            service.model_state()  # as a service does before it listens
        return service

    def parsed(self, **changes: Any) -> dict[str, Any]:
        """A record as it reaches the service, after its validation."""
        from harness.serving.schema import request_model

        return (
            request_model(self.services[-1].contract).model_validate({**self.record, **changes}).model_dump()
        )

    def model_does(self, digest: str, code: str | None, *, role: str = "predict") -> None:
        """Have a packaged model run this body of a function of (model, features) from its next call on."""
        file = self.root / "var" / "told" / digest / f"{role}.py"
        if code is None:
            file.unlink()
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(file) as beside:
            beside.write_text(f"{TOLD}\ndef {role}(model, features):\n{indent(dedent(code), '    ')}\n")

    def fallback_file(self) -> Any:
        return sys.modules[f"{PACKAGE}.fallback"]


def pytest_sessionstart() -> None:
    if "HARNESS_MUTANT" in os.environ:  # see mutants.py
        print(f"harness under test: {Path(harness.__file__).parent}")


@pytest.fixture(scope="session", autouse=True)
def parsed_once() -> Iterator[None]:
    """The same text is the same document: reading them took half the time of the tests of the gates."""
    parse = document.parse
    read: dict[str, bytes] = {}

    def once(text: str) -> Any:
        if text not in read:
            read[text] = pickle.dumps(parse(text))  # what is none raises anew each time
        return pickle.loads(read[text])

    with pytest.MonkeyPatch.context() as patch:
        for module in (document, markdown, lock):
            assert module.parse is parse
            patch.setattr(module, "parse", once)
        yield


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The environment of a process that uses the harness under test and the tiny pilot's package."""
    source = str(Path(harness.__file__).parents[1])
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PILOT_")}
    path = [source, str(tmp_path / "pilot" / "src")]
    # What a service logs is read by people here.
    text = {"PILOT_SERVING__LOG_FORMAT": "text"}
    return kept | text | {"PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TinyPilot]:
    root = tmp_path / "pilot"
    code = root / "src" / PACKAGE
    code.mkdir(parents=True)
    for name, text in FILES.items():
        (code / name).write_text(text)
    (root / "pilot.toml").write_text(TOML)
    for name in [name for name in os.environ if name.upper().startswith("PILOT_")]:
        monkeypatch.delenv(name)
    monkeypatch.syspath_prepend(str(code.parent))
    # The scorer switches compiled files off for good, as a service should and a test run need not.
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    found = TinyPilot(root)
    _forget()
    yield found
    for service in found.services:
        service.close()
    _forget()


@pytest.fixture
def host(tiny: TinyPilot) -> Iterator[Callable[..., ModelHost]]:
    """Start a host of the tiny pilot's models, without a service; its breaker never opens unless told to."""
    started: list[ModelHost] = []

    def start(**options: Any) -> ModelHost:
        given = {"reasons": 3, "in_flight": 8, "budget_s": 10.0, "breaker": Rule(failures=10_000)}
        started.append(ModelHost(tiny.models, **{**given, **options}))
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.fixture
def record(tiny: TinyPilot) -> dict[str, Any]:
    """A record as the service hands it to a model."""
    return {**tiny.record, "measured_on": date.fromisoformat(tiny.record["measured_on"])}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty control folder."""
    made = tmp_path / "control"
    made.mkdir()
    return made


@pytest.fixture
def put(folder: Path) -> Callable[..., State]:
    """Put a state in force in ``folder``: a champion for everybody, unless told otherwise."""

    def put(**changes: Any) -> State:
        values = {
            "rev": 1,
            "stage": "sandbox",
            "champion": Slot(digest="a" * 64, pct=100),
            "flag_key": "fields",
            "actor": "a test",
            "reason": "Änderung",
            "changed_at": "2026-01-01T00:00:00+00:00",
        }
        state = State(**{**values, **changes})
        write_state(folder, state)
        return state

    return put


@pytest.fixture
def reader(folder: Path) -> Control:
    return Control(folder)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that an unprivileged account may reach, which pytest's own are not."""
    made = Path(tempfile.mkdtemp(prefix="harness-open-"))
    made.chmod(0o755)
    yield made
    for path in [made, *made.rglob("*")]:
        if path.is_dir():
            path.chmod(0o755)
    shutil.rmtree(made)


@pytest.fixture
def unprivileged() -> Callable[[Callable[[], Any]], Any]:
    """Run something in a forked child whose account may not do everything; gives what it returned."""

    def run(action: Callable[[], Any]) -> Any:
        return forked(action, nobody=os.getuid() == 0)

    return run


@pytest.fixture
def in_child() -> Callable[[Callable[[], Any]], Any]:
    """Run something in a forked child; gives what it returned."""
    return forked


def forked(action: Callable[[], Any], *, nobody: bool = False) -> Any:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        try:
            if nobody:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            answer = pickle.dumps(action())
        except BaseException:
            answer = pickle.dumps(RuntimeError(traceback.format_exc()))
        with os.fdopen(writing, "wb") as stream:
            stream.write(answer)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        content = stream.read()
    os.waitpid(child, 0)
    answer = pickle.loads(content)
    if isinstance(answer, RuntimeError):
        raise answer
    return answer


@pytest.fixture
def python(environment: dict[str, str]) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start Python on a piece of code, in a process of its own that does not outlive the test."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str, *arguments: object, **more: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code, *map(str, arguments)]
        process = subprocess.Popen(
            command,
            env=environment | more,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def pilot_command(
    tiny: TinyPilot, environment: dict[str, str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `pilot` on the tiny pilot, to the end."""

    def run(*arguments: str, cwd: Path | None = None, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "harness.cli", *arguments],
            cwd=cwd or tiny.root,
            env=environment | more,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=60,
        )

    return run


@pytest.fixture
def pilot_here(
    tiny: TinyPilot, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """Run `pilot` on the tiny pilot in this process: every library is imported once and not in each test."""
    from harness.cli import context, main

    # A signal is the test run's own business.
    monkeypatch.setattr("harness.interruption.end_cleanly", lambda: None)

    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        _forget()
        importlib.invalidate_caches()
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.chdir(tiny.root)
            # Of a file that is written anew within the second, as long as before, the old one would be taken.
            patch.setattr(sys, "dont_write_bytecode", True)
            for name, value in more.items():
                patch.setenv(name, value)
            try:
                main(list(arguments))
            except SystemExit as ended:
                code = ended.code
        printed = capsys.readouterr()
        assert isinstance(code, int)
        return subprocess.CompletedProcess(arguments, code, printed.out, printed.err)

    yield run
    context.choose(root=None, debug=False)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL of this test session."""
    with server(tmp_path_factory.mktemp("postgres") / "data") as url:
        yield url.replace(":@", "@")


@pytest.fixture
def postgres_store(postgres: str) -> Iterator[str]:
    """A store's address in a schema of its own."""
    name = f"store_{uuid.uuid4().hex}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}")  # type: ignore[call-overload]
    yield f"{postgres}&options=-csearch_path%3D{name}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("SET client_min_messages = warning")
        connection.execute(f"DROP SCHEMA {name} CASCADE")  # type: ignore[call-overload]


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store's address: the same test on both databases."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres_store"))
    return f"sqlite:///{tmp_path}/stores/decisions.db"


@pytest.fixture(scope="session")
def empty_tracking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's database before the first run: making one takes MLflow seconds."""
    from mlflow.tracking import MlflowClient

    file = tmp_path_factory.mktemp("tracking") / "mlflow.db"
    MlflowClient(f"sqlite:///{file}").get_experiment_by_name("none")
    return file


@pytest.fixture
def watched(
    tiny: TinyPilot,
    pilot_command: Callable[..., subprocess.CompletedProcess[str]],
    pilot_here: Callable[..., subprocess.CompletedProcess[str]],
) -> Any:
    """The tiny pilot with a model, its reference and the template's monitoring.yaml."""
    from watching import Watched

    return Watched(tiny, pilot_command, pilot_here).start()


@dataclass
class Running:
    """A real service."""

    process: subprocess.Popen[str]
    url: str


@pytest.fixture
def served(tiny: TinyPilot, environment: dict[str, str]) -> Iterator[Callable[..., Running]]:
    """Start `pilot serve` on a port of the system's choice and wait until it listens."""
    started: list[tuple[subprocess.Popen[str], Any]] = []

    def start(*arguments: str, before: tuple[str, ...] = (), **more: str) -> Running:
        log = tiny.root / f"service-{len(started)}.log"
        stream = log.open("w")
        process = subprocess.Popen(
            [sys.executable, "-m", "harness.cli", *before, "serve", "--port", "0", *arguments],
            cwd=tiny.root,
            env=environment | more,
            stdout=stream,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append((process, stream))
        line = waited(lambda: _listening(log, process), within=60)
        url = re.search(r"https?://[^\s\"]+", line)  # a line may be JSON
        assert url is not None
        return Running(process, url[0])

    yield start
    for process, stream in started:
        if process.poll() is None:
            process.kill()
        process.wait(timeout=30)
        stream.close()


def _listening(log: Path, process: subprocess.Popen[str]) -> str | None:
    text = log.read_text()
    assert process.poll() is None, text
    return next((line for line in text.splitlines() if "listening on http" in line), None)


@pytest.fixture
def wait() -> Callable[..., Any]:
    """Poll until a question has an answer that is true, and give it."""
    return waited


def waited(question: Callable[[], Any], *, within: float = 20.0) -> Any:
    end = time.monotonic() + within
    while True:
        answer = question()
        if answer:
            return answer
        assert time.monotonic() < end, f"not true within {within:g} s"
        time.sleep(0.01)


def _forget() -> None:
    for name in list(sys.modules):
        if name.split(".")[0] == PACKAGE or name.startswith("packaged_"):
            del sys.modules[name]
