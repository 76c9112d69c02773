"""Traces by OpenTelemetry, where they are asked for; without that, nothing of it is imported.

OpenTelemetry's own variables say where they go and how many: ``OTEL_EXPORTER_OTLP_ENDPOINT``, or that of
traces alone, ``OTEL_EXPORTER_OTLP_HEADERS``, ``OTEL_TRACES_SAMPLER``, ``OTEL_SERVICE_NAME`` and so on.
A thread sends them in batches, over HTTP. Whatever becomes of that, no decision waits or fails for it.
An attribute never holds anything of a record.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from harness import __version__
from harness.serving.logs import failed

if TYPE_CHECKING:
    from fastapi.telemetry import TelemetryConfig
    from opentelemetry.sdk.trace import TracerProvider

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
END_WITHIN_S = 2.0
# FastAPI's own: its logs hold what exceptions say, and a variable of the environment switches it on.
OF_FASTAPI: TelemetryConfig = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}
NOT_THERE = (
    "traces are asked for in the environment, and nothing here can send them: "
    "install the harness's extra, `uv pip install -e 'harness[telemetry]' -c harness/constraints.txt`"
)

Kind = Literal["server", "client", "internal"]
Value = str | int | float | bool

log = logging.getLogger("harness.serving")


class Span:
    """A part of the work on a request, from entering it to leaving it; this one is told to nobody.

    Attributes:
        traceparent: Its place in the trace, as W3C Trace Context writes it; empty where nothing is traced.
    """

    traceparent = ""

    def say(self, **attributes: Value) -> None:
        """Add attributes; nothing of a record ever."""

    def part(self, name: str, since: float, until: float, error: BaseException | None = None) -> None:
        """Add a part that is over, on whatever thread it was.

        Args:
            name: What was done.
            since: When it began, on the clock that only grows.
            until: When it ended.
            error: What it ended in, if in an error.
        """

    def __enter__(self) -> Span:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """It is over."""


NOTHING = Span()
_tracer: _Tracer | None = None


def span(name: str, *, parent: str = "", kind: Kind = "internal") -> Span:
    """A span, to be used with ``with``; within another of this context it is part of that one.

    Args:
        name: What is done.
        parent: A ``traceparent`` from outside; empty for the span around this one, if any.
        kind: Who asked for it.
    """
    return NOTHING if _tracer is None else _tracer.begin(name, parent, kind)


def around() -> Span:
    """The span that this context is in; one that is told to nobody where there is none."""
    return _current.get()


def wanted() -> bool:
    """Whether the environment asks for traces."""
    env = os.environ
    if env.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    return env.get("OTEL_TRACES_EXPORTER", "").strip().lower() != "none" and any(map(env.get, ENDPOINTS))


@contextmanager
def tracing(name: str) -> Iterator[None]:
    """Trace meanwhile, where the environment asks for it.

    Args:
        name: What the service is called where OTEL_SERVICE_NAME does not say.
    """
    global _tracer
    if not wanted():
        yield
        return
    try:
        provider = _provider(name)
    except ImportError:
        log.error("%s", NOT_THERE)
        yield
        return
    except Exception as error:
        failed("traces are asked for, and cannot be set up", error)
        yield
        return
    _tracer = _Tracer(provider)
    try:
        yield
    finally:
        _tracer = None
        # It tries to send what is left, and nobody may be there to take it.
        ending = threading.Thread(target=provider.shutdown, name="traces", daemon=True)
        ending.start()
        ending.join(END_WITHIN_S)


def _provider(name: str) -> TracerProvider:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    own = {"service.name": name, "service.version": __version__}
    if os.environ.get("OTEL_SERVICE_NAME"):
        del own["service.name"]
    # Not the process-wide one: what a library would say there of itself, and of records, is not ours to send.
    provider = TracerProvider(resource=Resource.create(own))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


class _Tracer:
    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry import trace
        from opentelemetry.trace import SpanKind, Status, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self.tracer = provider.get_tracer("harness", __version__)
        self.within = trace.set_span_in_context
        self.failed = Status(StatusCode.ERROR)
        # Baggage, the other part of the standard, holds whatever a caller writes, and is not taken.
        self._propagator = TraceContextTextMapPropagator()
        self._kinds = {"server": SpanKind.SERVER, "client": SpanKind.CLIENT, "internal": SpanKind.INTERNAL}

    def begin(self, name: str, parent: str, kind: Kind) -> Span:
        try:
            context = self._propagator.extract({"traceparent": parent}) if parent else _context()
            started = self.tracer.start_span(name, context=context, kind=self._kinds[kind])
            carrier: dict[str, str] = {}
            self._propagator.inject(carrier, self.within(started))
            return _Told(self, started, carrier.get("traceparent", ""))
        except Exception as error:
            failed("a span could not begin", error)
            return NOTHING


_current: ContextVar[Span] = ContextVar("span", default=NOTHING)


def _context() -> Any:
    span = _current.get()
    return span.context if isinstance(span, _Told) else None


class _Told(Span):
    """One that is sent."""

    def __init__(self, tracer: _Tracer, started: Any, traceparent: str) -> None:
        self.traceparent = traceparent
        self._tracer = tracer
        self._span = started
        self.context = tracer.within(started)

    def say(self, **attributes: Value) -> None:
        self._span.set_attributes(attributes)

    def part(self, name: str, since: float, until: float, error: BaseException | None = None) -> None:
        try:
            ahead = time.time() - time.monotonic()
            span = self._tracer.tracer.start_span(name, self.context, start_time=_ns(since + ahead))
            self._fail(span, error)
            span.end(_ns(until + ahead))
        except Exception as raised:
            failed("a span could not be added", raised)

    def _fail(self, span: Any, error: BaseException | None) -> None:
        if error is not None:
            # Its type alone: what it says may quote a record.
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(self._tracer.failed)

    def __enter__(self) -> Span:
        self._token = _current.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        _current.reset(self._token)
        self._fail(self._span, error)
        self._span.end()


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
