"""By what a request can be followed: its name and its trace, in answers, in the log and at the consumer."""

from __future__ import annotations

import http.server
import io
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from delivering import receiving
from harness.control.tokens import issue
from harness.serving import followed, logs, tracing
from harness.serving.app import create_app
from harness.serving.followed import REMEMBERED, Followed
from harness.serving.server import delivering
from harness.store.database import decision_name

Serve = Callable[..., Any]
Wait = Callable[..., Any]
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE, SPAN = PARENT.split("-")[1:3]
OTEL = [name for name in os.environ if name.startswith("OTEL_")]


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What a service would have written to its log so far, as JSON."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.Objects())
    logger = logging.getLogger("harness")
    before = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield stream
    logger.removeHandler(handler)
    logger.setLevel(before)


@pytest.fixture
def asked(tiny: Any) -> Iterator[TestClient]:
    tiny.offered()
    app = create_app(tiny.service(), name="dry field")
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def objects(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_decision_is_one_object_with_its_names_and_nothing_of_the_record(
    tiny: Any, asked: TestClient, written: io.StringIO
) -> None:
    answer = asked.post(
        "/decide", json=tiny.record, headers={"X-Request-ID": "order-7/a", "traceparent": PARENT}
    )
    assert answer.headers["X-Request-ID"] == "order-7/a"
    (line,) = (each for each in objects(written) if "decision_id" in each)
    assert line["request_id"] == "order-7/a"
    assert line["trace_id"] == TRACE
    assert line["decision_id"] == answer.json()["decision_id"]
    assert (line["level"], line["logger"], line["pid"]) == ("info", "harness.serving", os.getpid())
    assert (line["served_by"], line["why"], line["revision"], line["stage"]) == (
        "model",
        "assigned",
        1,
        "sandbox",
    )
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["timestamp"])
    assert line["event"].startswith(f"decision {line['decision_id']} by model (assigned), revision 1, ")
    for value in ("Äcker", "maize", "r-1", "80.0", answer.json()["decision"]):
        assert value not in json.dumps(line, ensure_ascii=False)


@pytest.mark.parametrize(
    "given",
    ["", " ", "a b", "a\tb", "x" * 129, "-a", "ä", '"}{', "%0a", "a\u2028b".encode().decode("latin-1")],
)
def test_a_name_that_is_not_well_formed_is_not_taken(asked: TestClient, given: str) -> None:
    headers = [(b"x-request-id", given.encode("latin-1"))]
    names = {asked.get("/health", headers=headers).headers["X-Request-ID"] for _ in range(2)}  # type: ignore[arg-type]
    assert len(names) == 2
    assert all(re.fullmatch(r"[0-9a-f]{32}", name) for name in names)


@pytest.mark.parametrize("path", ["/health", "/nowhere", "/decide", "/metrics"])
def test_every_answer_has_it_whatever_it_is(tiny: Any, asked: TestClient, path: str) -> None:
    answer = asked.get(path, headers={"X-Request-ID": "n-1", "Authorization": "Bearer no"})
    assert answer.headers["X-Request-ID"] == "n-1"


def test_a_failure_that_nobody_foresaw_has_it_too(
    tiny: Any, asked: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unwell(*_: Any, **__: Any) -> None:
        raise ValueError("zq-7731")

    monkeypatch.setattr(tiny.services[-1], "decided", unwell)
    answer = asked.post("/decide", json=tiny.record, headers={"X-Request-ID": "n-1"})
    assert (answer.status_code, answer.headers["X-Request-ID"]) == (500, "n-1")
    monkeypatch.undo()
    assert 'pilot_requests_refused_total{reason="unforeseen"} 1.0' in asked.get("/metrics").text


def test_names_of_decisions_grow_and_tell_their_time() -> None:
    """RFC 9562, section 5.7."""
    before = time.time_ns() // 1_000_000
    names = []
    for _ in range(5):
        names.append(uuid.UUID(decision_name()))
        time.sleep(0.002)
    after = time.time_ns() // 1_000_000
    assert names == sorted(names)
    assert {(name.version, name.variant) for name in names} == {(7, uuid.RFC_4122)}
    assert all(before <= name.int >> 80 <= after for name in names)
    assert len({decision_name() for _ in range(10_000)}) == 10_000


def test_names_are_unlike_each_other_whatever_is_seeded_and_whoever_was_forked() -> None:
    code = (
        "import os, random\nfrom harness.serving.observed import _given\n"
        "from harness.store.database import RANDOM\n"
        "def say():\n    random.seed(7)\n"
        "    os.write(1, f'{_given([])[0]} {_given([])[0]} {RANDOM.getrandbits(128):032x} '.encode())\n"
        "for _ in range(2):\n    if not os.fork():\n        say()\n        os._exit(0)\n    os.wait()\n"
        "say()\n"
    )
    names: list[str] = []
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=True)
        names += done.stdout.decode().split()
    assert (len(names), len(set(names))) == (18, 18)
    assert all(re.fullmatch("[0-9a-f]{32}", name) for name in names)


@pytest.mark.parametrize(
    "given",
    ["", f"00-{'0' * 32}-{SPAN}-01", PARENT.upper(), f"{PARENT}-x", f"ff{PARENT[2:]}", "x"],
    ids=["none", "no trace", "capitals", "more", "version", "letter"],
)
def test_a_trace_that_is_not_well_formed_is_not_taken(
    tiny: Any, asked: TestClient, written: io.StringIO, given: str
) -> None:
    asked.post("/decide", json=tiny.record, headers={"traceparent": given})
    (line,) = (each for each in objects(written) if "decision_id" in each)
    assert "trace_id" not in line


def test_text_names_the_request_at_the_end_of_the_line() -> None:
    record = logging.LogRecord("harness.serving", 20, "", 0, "said %d", (7,), None)
    assert logs.Lines().format(record).endswith(" INFO harness.serving said 7")
    followed.begin(Followed("n-1"))
    try:
        assert logs.Lines().format(record).endswith(" INFO harness.serving said 7 [n-1]")
    finally:
        followed.begin(followed.NOBODY)


@pytest.mark.parametrize("debug", [False, True])
def test_an_exception_is_a_field_with_its_type_and_place(debug: bool) -> None:
    try:
        raise ValueError("zq-7731")
    except ValueError:
        record = logging.LogRecord("uvicorn.error", 40, "", 0, "it\nfailed", (), sys.exc_info())
    line = logs.Objects(debug=debug).format(record)
    told = json.loads(line)
    assert "\n" not in line
    assert told["event"] == "it\nfailed"
    assert ("zq-7731" in line) == debug
    assert told["exception"].startswith("Traceback" if debug else "ValueError at test_observed.py line ")


@pytest.mark.parametrize(
    ("form", "terminal", "kind"),
    [
        ("auto", True, logs.Lines),
        ("auto", False, logs.Objects),
        ("json", True, logs.Objects),
        ("text", False, logs.Lines),
    ],
)
def test_the_form_is_the_terminals_or_what_pilot_toml_says(
    monkeypatch: pytest.MonkeyPatch, form: Any, terminal: bool, kind: type
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    logs.set_up(debug=False)
    logs.set_up(debug=False, form=form)
    (handler,) = root.handlers
    assert type(handler.formatter) is kind


def test_every_line_of_a_service_is_an_object(tiny: Any, served: Serve, wait: Wait) -> None:
    digest = tiny.offered()
    running = served("--workers", "2", PILOT_SERVING__LOG_FORMAT="json")
    tiny.model_does(digest, "raise ValueError('zq-7731')")
    with httpx.Client(base_url=running.url, trust_env=False, timeout=30) as client:
        for number in range(2):
            client.post("/decide", json=tiny.record, headers={"X-Request-ID": f"n-{number}"})
    log = tiny.root / "service-0.log"
    wait(lambda: log.read_text().count("model_failed") >= 2)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {"harness.serving"} <= {line["logger"] for line in lines}
    of = [line for line in lines if line.get("request_id") == "n-1"]
    assert [line["event"].split(" ")[0] for line in of] == ["the", "decision"]
    assert of[0]["exception"].startswith("ValueError at predict.py line ")
    assert "zq-7731" not in log.read_text()


@pytest.mark.parametrize("options", [(), ("--debug",)], ids=["quiet", "debug"])
def test_what_a_model_prints_is_logged_and_shown_with_debug_alone(
    tiny: Any, served: Serve, wait: Wait, options: tuple[str, ...]
) -> None:
    digest = tiny.offered()
    running = served(before=options, PILOT_SERVING__LOG_FORMAT="json")
    tiny.model_does(
        digest, "import os\nfor n in range(3): os.write(1 + n % 2, b'row zq-773%d\\n' % n)\nraise OSError"
    )
    httpx.post(f"{running.url}/decide", json=tiny.record, trust_env=False, timeout=30)
    log = tiny.root / "service-0.log"
    wait(lambda: "harness.model" in log.read_text() and "model_failed" in log.read_text())
    wait(lambda: not options or "zq-7732" in log.read_text())
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    of_the_model = [line["event"] for line in lines if line["logger"] == "harness.model"]
    if options:
        assert of_the_model == ["row zq-7730", "row zq-7731", "row zq-7732"]
    else:
        assert of_the_model == [logs.PRINTED]
        assert "zq-773" not in log.read_text()


def test_names_of_deliveries_are_kept_for_a_while_and_no_longer() -> None:
    followed.begin(Followed("n-1"))
    try:
        for number in range(REMEMBERED + 1):
            followed.remember(f"d-{number}")
    finally:
        followed.begin(followed.NOBODY)
    assert followed.recall("d-0") == followed.NOBODY
    assert followed.recall(f"d-{REMEMBERED}").request_id == "n-1"
    followed.remember("d-x")
    assert followed.recall("d-x") == followed.NOBODY


# ---------------------------------------------------------------- traces
class Collector:
    """An OTLP/HTTP collector on the loopback: it keeps the spans that it is sent, or says no."""

    def __init__(self, status: int = 200) -> None:
        self.spans: list[Any] = []
        self.resources: list[dict[str, str]] = []
        self.asked = 0
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                collector.asked += 1
                body = self.rfile.read(int(self.headers["content-length"]))
                if status == 200:
                    for each in ExportTraceServiceRequest.FromString(body).resource_spans:
                        attributes = {one.key: one.value.string_value for one in each.resource.attributes}
                        collector.resources.append(attributes)
                        collector.spans += [span for scope in each.scope_spans for span in scope.spans]
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    for name in OTEL:
        monkeypatch.delenv(name)
    found = Collector()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
    yield found
    found.close()


def attributes(span: Any) -> dict[str, Any]:
    return {
        each.key: each.value.string_value or each.value.int_value or each.value.bool_value
        for each in span.attributes
    }


def test_a_trace_goes_from_the_caller_through_the_decision_to_the_consumer(
    tiny: Any, collector: Collector, monkeypatch: pytest.MonkeyPatch, wait: Wait
) -> None:
    tiny.offered()
    with receiving() as consumer:
        monkeypatch.setenv("PILOT_DOWNSTREAM__URL", consumer.url)
        service = tiny.service()
        with tracing.tracing("dry field"), TestClient(create_app(service, name="dry field")) as client:
            headers = {"traceparent": PARENT, "X-Request-ID": "n-1", "baggage": "who=zq-7731"}
            decision = client.post("/decide", json=tiny.record, headers=headers).json()["decision_id"]
            with delivering(tiny.settings(), service):
                wait(lambda: consumer.got)
        received = {name.lower(): value for name, value in consumer.got[0][0].items()}
    spans = {span.name: span for span in collector.spans}
    assert set(spans) == {"request", "admission wait", "model call", "record", "delivery"}
    assert {span.trace_id.hex() for span in spans.values()} == {TRACE}
    assert spans["request"].parent_span_id.hex() == SPAN
    for name in ("admission wait", "model call", "record", "delivery"):
        assert spans[name].parent_span_id == spans["request"].span_id
    assert received["traceparent"] == f"00-{TRACE}-{spans['delivery'].span_id.hex()}-01"
    assert received["x-request-id"] == "n-1"
    told = attributes(spans["request"])
    assert told["decision_id"] == decision
    assert (told["served_by"], told["why"], told["http.route"]) == ("model", "assigned", "/decide")
    assert told["http.response.status_code"] == 200
    everything = " ".join(str(span) for span in collector.spans)
    for value in ("Acker", "cker-7", "maize", "r-1", "zq-7731", "baggage"):
        assert value not in everything
    assert collector.resources[0]["service.name"] == "dry field"


def test_a_failure_leaves_its_type_alone_in_the_span(
    tiny: Any, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = tiny.offered()
    service = tiny.service()
    tiny.model_does(digest, "raise ValueError('zq-7731')")
    with tracing.tracing("dry field"), TestClient(create_app(service, name="dry field")) as client:
        assert client.post("/decide", json=tiny.record).json()["why"] == "model_failed"
    (span,) = (span for span in collector.spans if span.name == "model call")
    assert attributes(span)["error.type"] == "ModelFailed"
    assert span.status.code == 2
    assert "zq-7731" not in str(collector.spans)


@pytest.mark.parametrize("away", ["refuses", "nobody there"])
def test_a_collector_that_is_away_costs_no_decision(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, collector: Collector, wait: Wait, away: str
) -> None:
    refusing = Collector(status=400)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", refusing.url)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    if away == "nobody there":
        refusing.close()
    tiny.offered()
    with tracing.tracing("dry field"), TestClient(create_app(tiny.service(), name="dry field")) as client:
        for _ in range(5):
            answer = client.post("/decide", json=tiny.record, headers={"traceparent": PARENT})
            assert (answer.status_code, answer.json()["served_by"]) == (200, "model")
        if away == "refuses":
            wait(lambda: refusing.asked)
    if away == "refuses":
        refusing.close()


def test_a_tracer_that_fails_costs_no_decision(
    tiny: Any, collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tiny.offered()
    with tracing.tracing("dry field"), TestClient(create_app(tiny.service(), name="dry field")) as client:
        monkeypatch.setattr(tracing._tracer, "tracer", None)
        assert client.post("/decide", json=tiny.record).json()["served_by"] == "model"
    assert "a span could not begin" in caplog.text


@pytest.mark.parametrize(
    ("variables", "asked_for"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_SDK_DISABLED": "TRUE"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
    ids=["nothing", "endpoint", "of traces", "disabled", "none"],
)
def test_the_standards_variables_say_whether(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], asked_for: bool
) -> None:
    for name in OTEL:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert tracing.wanted() == asked_for


def test_without_the_extra_it_says_so_and_decides(
    tiny: Any, collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    tiny.offered()
    with tracing.tracing("dry field"), TestClient(create_app(tiny.service(), name="dry field")) as client:
        assert client.post("/decide", json=tiny.record).json()["served_by"] == "model"
    assert caplog.text.count("traces are asked for in the environment, and nothing here can send them") == 1


def test_nothing_of_it_is_imported_where_nobody_asks(environment: dict[str, str]) -> None:
    code = (
        "import sys; from harness.serving import tracing, asgi, app, running\n"
        "with tracing.tracing('x'), tracing.span('y') as span: span.say(a=1); span.part('z', 0, 1)\n"
        "apart = ('opentelemetry.sdk', 'opentelemetry.exporter')\n"
        "print([name for name in sys.modules if name.startswith(apart)])"
    )
    kept = {name: value for name, value in environment.items() if not name.startswith("OTEL_")}
    done = subprocess.run([sys.executable, "-c", code], env=kept, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_what_fastapi_would_tell_of_itself_is_not_sent(
    tiny: Any, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its logs hold what exceptions say, and this would have it send them by itself.
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
    tiny.offered()
    app = create_app(tiny.service(), name="dry field")
    with TestClient(app, raise_server_exceptions=False) as client:
        client.post("/decide", json={**tiny.record, "dryness": "zq-7731"})
    assert not app._native_telemetry.enabled()
    assert collector.asked == 0


# ---------------------------------------------------------------- health
def test_ready_says_of_each_part_whether_it_is_well(
    tiny: Any, asked: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, _ = issue(tiny.control, name="probe", scopes=["read"], lasts=timedelta(days=1))
    # Without a state that can be read this is no sandbox, and strangers are told less.
    asked.headers["authorization"] = f"Bearer {token}"
    found = asked.get("/ready").json()
    (digest,) = found["models"]
    assert found["status"] == "ready"
    assert found["checks"] == {"store": "ok", "control": "ok", f"model {digest[:12]}": "ok"}
    assert {"version", "commit", "stage", "revision", "stopped"} <= set(found)
    (tiny.control / "state.json").write_text("{")
    found = asked.get("/ready").json()
    assert (found["status"], found["stopped"]) == (
        "ready",
        True,
    )  # the fallback decides, and that is recorded
    assert "state.json" in found["checks"]["control"]
    (tiny.root / "var" / "decisions.db").unlink()
    answer = asked.get("/ready")
    assert (answer.status_code, answer.json()["status"]) == (503, "unavailable")
    assert "was deleted or replaced" in answer.json()["checks"]["store"]
    assert answer.json()["detail"] == answer.json()["checks"]["store"]
    assert asked.get("/health").status_code == 200
