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
        """Add attributes."""

    def __enter__(self) -> Span:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """It is over."""


_NOTHING = Span()
_tracer: _Tracer | None = None


def span(name: str, *, parent: str = "", kind: Kind = "internal", since: float | None = None) -> Span:
    """A span, to be used with ``with``; within another of this context it is part of that one.

    Args:
        name: What is done.
        parent: A ``traceparent`` from outside; empty for the span around this one, if any.
        kind: Who asked for it.
        since: When it began, in seconds of ``time.time()``; None for now.
    """
    return _NOTHING if _tracer is None else _tracer.begin(name, parent, kind, since)


def say(**attributes: Value) -> None:
    """Add attributes to the span around this; nothing of a record ever."""
    if _tracer is not None:
        _tracer.say(attributes)


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
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._tracer = provider.get_tracer("harness", __version__)
        # Baggage, the other part of the standard, holds whatever a caller writes, and is not taken.
        self._propagator = TraceContextTextMapPropagator()
        self._kinds = {"server": SpanKind.SERVER, "client": SpanKind.CLIENT, "internal": SpanKind.INTERNAL}

    def begin(self, name: str, parent: str, kind: Kind, since: float | None) -> Span:
        try:
            around = self._propagator.extract({"traceparent": parent}) if parent else _around.get()
            started = self._tracer.start_span(
                name,
                context=around,
                kind=self._kinds[kind],
                start_time=None if since is None else int(since * 1e9),
                record_exception=False,  # its text may quote a record
                set_status_on_exception=False,
            )
            return _Told(started, self._traceparent(started))
        except Exception as error:
            failed("a span could not begin", error)
            return _NOTHING

    def say(self, attributes: dict[str, Value]) -> None:
        from opentelemetry import trace

        trace.get_current_span(_around.get()).set_attributes(attributes)

    def _traceparent(self, started: Any) -> str:
        from opentelemetry import trace

        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, trace.set_span_in_context(started))
        return carrier.get("traceparent", "")


_around: ContextVar[Any] = ContextVar("span", default=None)


class _Told(Span):
    """One that is sent."""

    def __init__(self, started: Any, traceparent: str) -> None:
        from opentelemetry import trace

        self.traceparent = traceparent
        self._span = started
        self._within = trace.set_span_in_context(started)

    def say(self, **attributes: Value) -> None:
        self._span.set_attributes(attributes)

    def __enter__(self) -> Span:
        self._token = _around.set(self._within)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        _around.reset(self._token)
        if kind is not None:
            from opentelemetry.trace import Status, StatusCode

            # Its type alone: what it says may quote a record.
            self._span.set_attribute("error.type", kind.__name__)
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end(end_time=int(time.time() * 1e9))
