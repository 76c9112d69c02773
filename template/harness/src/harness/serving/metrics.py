"""What the service counts and measures, under the names that docs/reference/metrics.md lists.

No label holds anything of a record, a caller or an address: each takes a handful of values that the standard
knows, or a model's digest. So the page stays small, and may be kept by whoever keeps metrics.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from harness.serving import series
from harness.serving.logs import failed
from harness.serving.series import Series
from harness.serving.servers import pids
from harness.store import Decision

FOLDER = Path("var", "run", "metrics")
SAMPLE_EVERY_S = 1.0
# Looking at every process of this machine costs milliseconds.
PROCESSES_EVERY = 5
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# Parts of the budget within which the model has to answer: a target can be set at each of them.
OF_BUDGET = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.25, 2.0, 5.0)
COMMIT_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
REASONS = {
    400: "malformed",
    401: "unauthenticated",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "too_slow",
    413: "too_large",
    415: "not_json",
    422: "invalid",
    429: "too_many",
    500: "unforeseen",
    503: "unavailable",
    504: "too_slow",
}

log = logging.getLogger("harness.serving")

Kind = Literal["counter", "gauge", "histogram"]
Samples = Mapping[str, Sequence[tuple[tuple[str, ...], float]]]


@dataclass(frozen=True)
class Family:
    """One metric.

    Attributes:
        name: As Prometheus has it; a counter's with ``_total``.
        kind: Its type.
        help: What it says.
        labels: The names of its labels.
        bounds: A histogram's upper bounds, without infinity.
        largest: Whether of several processes the largest value counts, and not the sum.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    largest: bool = False


def families(budget_s: float) -> tuple[Family, ...]:
    """Every metric of the page.

    Args:
        budget_s: Seconds that a caller waits for the model.
    """
    around = tuple(float(f"{part * budget_s:.6g}") for part in OF_BUDGET)
    return (
        Family(
            "pilot_decisions_total", "counter", "Decisions on record.", ("served_by", "why", "stage", "arm")
        ),
        Family(
            "pilot_decision_duration_seconds",
            "histogram",
            "From the arrival of a record to its durable decision.",
            ("served_by",),
            around,
        ),
        Family(
            "pilot_admission_wait_seconds", "histogram", "How long records waited to be taken up.", (), around
        ),
        Family("pilot_queue_depth", "gauge", "Records that wait or are under way."),
        Family("pilot_batch_size", "histogram", "Records that a model was asked about at once.", (), SIZES),
        Family("pilot_store_commit_seconds", "histogram", "Making decisions durable.", (), COMMIT_S),
        Family("pilot_store_up", "gauge", "1 when the store answers."),
        Family("pilot_outbox_waiting", "gauge", "Decisions that the consumer does not have yet."),
        Family("pilot_outbox_oldest_age_seconds", "gauge", "How long the oldest of them waits; 0 for none."),
        Family("pilot_outbox_dead", "gauge", "Deliveries that are given up until somebody acts."),
        Family("pilot_outbox_withheld", "gauge", "Decisions of the sandbox that a real consumer never gets."),
        Family("pilot_control_revision", "gauge", "The control state in force; 0 when none is readable."),
        Family("pilot_control_stage", "gauge", "1 for the stage in force, 0 for the others.", ("stage",)),
        Family("pilot_control_stopped", "gauge", "1 when no model may decide."),
        Family("pilot_model_info", "gauge", "1 for each model that the state names.", ("role", "digest")),
        Family("pilot_models_loaded", "gauge", "Workers that have the model loaded.", ("role",)),
        Family("pilot_model_process_starts_total", "counter", "Processes started for models.", ("use",)),
        Family("pilot_breaker_open", "gauge", "Workers that leave the model alone for now.", ("role",)),
        Family("pilot_shadow_dropped_total", "counter", "Decisions that shadow had no room for."),
        Family("pilot_requests_refused_total", "counter", "Requests that were refused.", ("reason",)),
        Family("http_requests_total", "counter", "Requests answered.", ("handler", "method", "code")),
        Family(
            "http_request_duration_seconds",
            "histogram",
            "From a request's arrival to the last byte of its answer.",
            ("handler",),
            around,
        ),
        Family("pilot_workers", "gauge", "Processes that answer requests."),
        Family("pilot_build_info", "gauge", "1, with what runs.", ("version", "commit")),
        Family("process_cpu_seconds_total", "counter", "Processor time.", ("process",)),
        Family("process_resident_memory_bytes", "gauge", "Memory that is resident.", ("process",)),
        Family("process_open_fds", "gauge", "Open file descriptors.", ("process",)),
        Family(
            "process_start_time_seconds",
            "gauge",
            "When the youngest of them began, seconds since 1970.",
            ("process",),
            largest=True,
        ),
    )


class Metrics:
    """Counts, and makes the page. Nothing here raises where a decision is made.

    Args:
        root: The pilot's folder; the processes of all its services on this host count together.
        budget_s: Seconds that a caller waits for the model.
    """

    def __init__(self, root: Path, *, budget_s: float) -> None:
        self.families = families(budget_s)
        self._bounds = {each.name: each.bounds for each in self.families}
        # What counts other things counts elsewhere: its sums would not be sums of the same.
        layout = hashlib.sha256(repr(self.families).encode()).hexdigest()[:12]
        largest = frozenset(each.name for each in self.families if each.largest)
        self._series = Series(root / FOLDER / layout, largest=largest)
        self._keys: dict[tuple[str, ...], str] = {}
        # A histogram's bounds, and what its buckets and its sum are called.
        self._histograms: dict[tuple[str, tuple[str, ...]], tuple[tuple[float, ...], list[str]]] = {}
        self._samplers: list[Callable[[], None]] = []
        self._processes = _Processes(self)
        self._sampled = 0
        self._looking = threading.Lock()

    def count(self, name: str, *labels: str, by: float = 1.0) -> None:
        """Add to a counter."""
        self._series.add(self._key(name, *labels), by)

    def put(self, name: str, value: float, *labels: str) -> None:
        """Say how much there is in this process now."""
        self._series.put(series.gauge(name, *labels), value)

    def observe(self, name: str, value: float, *labels: str) -> None:
        """Add a value to a histogram."""
        self._series.add_all(self._observed(name, value, *labels))

    def decided(self, made: Iterable[tuple[Decision, float]]) -> None:
        """Decisions are on record.

        Args:
            made: Each with the seconds from taking the record up to now.
        """
        # Those of a transaction are much alike, and each write into the file takes longer than the adding up.
        total: defaultdict[str, float] = defaultdict(float)
        for each, seconds in made:
            labels = each.served_by, each.why, each.stage, each.assigned
            total[self._key("pilot_decisions_total", *labels)] += 1
            for key, by in self._observed("pilot_decision_duration_seconds", seconds, each.served_by):
                total[key] += by
        self._series.add_all(total.items())

    def committed(self, seconds: float) -> None:
        """The store has made something durable."""
        self.observe("pilot_store_commit_seconds", seconds)

    def batch(self, size: int) -> None:
        """A model was asked about so many records at once."""
        self.observe("pilot_batch_size", size)

    def waited(self, seconds: float) -> None:
        """A record was taken up after that time."""
        self.observe("pilot_admission_wait_seconds", seconds)

    def answered(self, handler: str, method: str, code: int, seconds: float, reason: str = "") -> None:
        """A request was answered.

        Args:
            handler: The route's own path, which nobody outside has written.
            method: The method, as the caller has it.
            code: The status.
            seconds: From its arrival.
            reason: Why it was refused, where the status alone does not say.
        """
        method = method if method in METHODS else "other"
        self._series.add_all(
            (
                (self._key("http_requests_total", handler, method, str(code)), 1.0),
                *self._observed("http_request_duration_seconds", seconds, handler),
            )
        )
        if code >= 400:
            self.count("pilot_requests_refused_total", reason or REASONS.get(code, "other"))

    def watch(self, sampler: Callable[[], None]) -> None:
        """Have something called about once a second, and before this process makes the page."""
        self._samplers.append(sampler)

    def sample(self) -> None:
        """Look at what is measured from time to time, and make sure that neighbours see it."""
        if not self._looking.acquire(blocking=False):
            return  # somebody does so right now
        try:
            self._series.share()
            self.put("pilot_workers", 1.0)
            for sampler in self._samplers:
                try:
                    sampler()
                except Exception as error:
                    failed("something could not be measured", error)
            if self._sampled % PROCESSES_EVERY == 0:
                self._processes.sample()
            self._sampled += 1
        finally:
            self._looking.release()

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Sample meanwhile, on a thread that nobody waits for."""
        ending = threading.Event()

        def run() -> None:
            while not ending.wait(SAMPLE_EVERY_S):
                self.sample()

        self.sample()
        thread = threading.Thread(target=run, name="metrics", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ending.set()
            thread.join(SAMPLE_EVERY_S)

    def page(self, now: Samples, accept: str) -> tuple[bytes, str]:
        """The page in the form that is wanted, and its content type.

        Args:
            now: What was looked up for this page: by metric, label values and value.
            accept: The header of that name.
        """
        self.sample()
        encode, content_type = choose_encoder(accept)
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Collected(self.families, self._series.totals(), now))
        return encode(registry), content_type

    def close(self) -> None:
        """Leave what was counted to the neighbours."""
        self._series.close()

    def _observed(self, name: str, value: float, *labels: str) -> tuple[tuple[str, float], ...]:
        found = self._histograms.get((name, labels))
        if found is None:
            bounds = self._bounds[name]
            called = (*(f"{bound:g}" for bound in bounds), "+Inf", "sum")
            found = bounds, [series.key(name, *labels, each) for each in called]
            self._histograms[name, labels] = found
        bounds, keys = found
        return (keys[bisect_left(bounds, value)], 1.0), (keys[-1], value)

    def _key(self, *called: str) -> str:
        found = self._keys.get(called)
        if found is None:
            found = self._keys[called] = series.key(*called)
        return found


class _Collected(Collector):
    """The page's metrics as the library writes them."""

    def __init__(self, of: Sequence[Family], totals: Mapping[str, float], now: Samples) -> None:
        self._of = of
        self._now = now
        self._counted: dict[str, dict[tuple[str, ...], float]] = {}
        for called, value in totals.items():
            name, *labels = series.parts(called)
            self._counted.setdefault(name, {})[tuple(labels)] = value

    def collect(self) -> Iterable[Metric]:
        for each in self._of:
            counted = self._counted.get(each.name, {})
            yield _KINDS[each.kind](each, {**counted, **dict(self._now.get(each.name, ()))})


def _counter(of: Family, counted: Mapping[tuple[str, ...], float]) -> Metric:
    made = CounterMetricFamily(of.name.removesuffix("_total"), of.help, labels=of.labels)
    # One without labels is there from the start, so that its first increase is seen as one.
    for labels, value in sorted(counted.items()) or ([] if of.labels else [((), 0.0)]):
        made.add_metric(labels, value)
    return made


def _gauge(of: Family, counted: Mapping[tuple[str, ...], float]) -> Metric:
    made = GaugeMetricFamily(of.name, of.help, labels=of.labels)
    for labels, value in sorted(counted.items()):
        made.add_metric(labels, value)
    return made


def _histogram(of: Family, counted: Mapping[tuple[str, ...], float]) -> Metric:
    made = HistogramMetricFamily(of.name, of.help, labels=of.labels)
    bounds = [*(f"{bound:g}" for bound in of.bounds), "+Inf"]
    for labels in sorted({each[:-1] for each in counted}) or ([] if of.labels else [()]):
        below, buckets = 0.0, []
        for bound in bounds:
            below += counted.get((*labels, bound), 0.0)
            buckets.append((bound, below))
        made.add_metric(labels, buckets, counted.get((*labels, "sum"), 0.0))
    return made


_KINDS: dict[str, Callable[[Family, Mapping[tuple[str, ...], float]], Metric]] = {
    "counter": _counter,
    "gauge": _gauge,
    "histogram": _histogram,
}


def below(own: psutil.Process) -> list[psutil.Process]:
    """What that process, which is this one, has started or had forked, and what those have."""
    found = {each.pid: each for each in own.children(recursive=True)}
    for pid in pids():
        with suppress(psutil.Error):  # it has just ended
            if pid not in found:
                server = psutil.Process(pid)
                found |= {each.pid: each for each in (server, *server.children(recursive=True))}
    return list(found.values())


class _Processes:
    """What this process and those below it, in which models run, take of the machine."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._used: dict[str, dict[int, float]] = {}

    def sample(self) -> None:
        with suppress(psutil.Error, OSError):
            own = psutil.Process(os.getpid())
            self._say("worker", [own])
            self._say("model", below(own))

    def _say(self, process: str, of: Sequence[psutil.Process]) -> None:
        memory = descriptors = began = 0.0
        before, self._used[process] = self._used.get(process, {}), {}
        for each in of:
            with suppress(psutil.Error):  # it has just ended
                with each.oneshot():
                    times = each.cpu_times()
                    memory += each.memory_info().rss
                    descriptors += each.num_fds()
                    began = max(began, each.create_time())
                used = times.user + times.system
                self._used[process][each.pid] = used
                by = max(0.0, used - before.get(each.pid, 0.0))
                self._metrics.count("process_cpu_seconds_total", process, by=by)
        self._metrics.put("process_resident_memory_bytes", memory, process)
        self._metrics.put("process_open_fds", descriptors, process)
        self._metrics.put("process_start_time_seconds", began, process)
