"""Records → features, split by time; serving must compute them alike, and nothing may leak."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING

import ibis
import ibis.expr.types as ir
import narwhals as nw

from harness import pilot
from harness.data import engine, probes
from harness.errors import CheckFailed, PilotError
from harness.pilot import Contract, FeaturesFile
from harness.pipeline import frames, layout, parity, verbs
from harness.pipeline.params import load_params
from harness.progress import Report
from harness.settings import Settings

if TYPE_CHECKING:
    from ibis.backends.sql import SQLBackend as Backend


@dataclass(frozen=True)
class Split:
    """Records divided by time.

    Attributes:
        train: Records whose outcome was known on the day before the cut.
        test: Records from the cut on.
        cut: The first day of the test records.
    """

    train: ir.Table
    test: ir.Table
    cut: date


def run(settings: Settings, report: Report) -> str:
    """Records → features, split by time; some are computed as in serving too and must agree.

    Raises:
        CheckFailed: Too few records on either side, training and serving disagree, or a probe stops.
    """
    package = settings.pilot.package
    contract = pilot.load_contract(package)
    wanted = expressions(pilot.load_features(package))
    backend = engine.connect(settings)
    records = backend.read_parquet(settings.path(layout.VALID), table_name="valid")
    split = divide(records, contract, load_params(settings.root).split.test_share)
    report("features", 0.2)
    sizes = []
    for part, file in ((split.train, layout.TRAIN), (split.test, layout.TEST)):
        frame = compute(part, contract, wanted)
        doubles = engine.as_declared(backend, file.stem, frame)
        with parity.naming(part, wanted):
            engine.write_parquet(backend, doubles, settings.path(file), order_by=[layout.KEY])
        sizes.append(int(backend.read_parquet(settings.path(file)).count().execute()))
    engine.write_parquet(backend, split.test, settings.path(layout.TEST_RECORDS), order_by=[contract.key])
    report("parity", 0.8)
    alike = parity.check(backend, records, contract, wanted, settings.path("var", "parity"))
    warned = _probe(settings, backend, records, split, contract, wanted, report)
    told = f"{sizes[0]:,} records to train, {sizes[1]:,} from {split.cut} on to test"
    return f"{len(wanted)} features; {told}; {alike}{warned}"


def _probe(
    settings: Settings,
    backend: Backend,
    records: ir.Table,
    split: Split,
    contract: Contract,
    wanted: Mapping[str, nw.Expr],
    report: Report,
) -> str:
    """Probe for leakage and bias, and keep what was found.

    Returns:
        The warnings, for a person; empty without any.

    Raises:
        CheckFailed: A probe stops.
    """
    found = probes.probe(
        records,
        probes.Sides(
            train=split.train,
            test=split.test,
            train_features=backend.read_parquet(settings.path(layout.TRAIN)),
            test_features=backend.read_parquet(settings.path(layout.TEST)),
            all_features=compute(records, contract, wanted),
            label=layout.LABEL,
            names=tuple(wanted),
        ),
        contract,
        settings.data.probes,
        report,
    )
    layout.write_json(settings.path(layout.PROBES), found.document())
    stops = found.having("stop")
    if stops:
        first, more = stops[0], [each.id for each in stops[1:]]
        also = f"; also {', '.join(more)}" if more else ""
        raise CheckFailed(f"{first.id}: {first.what}{also}", where=first.where, mend=first.mend)
    warned = [each.id for each in found.having("warn")]
    return f"; probes warn of {', '.join(warned)} ({layout.PROBES})" if warned else ""


def expressions(file: FeaturesFile) -> dict[str, nw.Expr]:
    """The team's features, each a double; absent values stay absent.

    Raises:
        PilotError: A feature's name is not an identifier, there are none, or one is written with a verb that
            engines were not seen to compute alike.
    """
    found = dict(file.features())
    if not found:
        raise PilotError("features() gives none", where="features.py", mend="Return at least one feature.")
    for name in found:
        if not name.isidentifier():
            raise PilotError(
                f"'{name}' is no name for a feature",
                where="features.py",
                mend="Use letters, digits and underscores.",
            )
    verbs.check(found)
    return {name: expression.cast(nw.Float64) for name, expression in found.items()}


def compute(records: ir.Table, contract: Contract, wanted: Mapping[str, nw.Expr]) -> ir.Table:
    """The features on the engine, with key, label and event time beside them.

    Raises:
        PilotError: A feature cannot be computed; it is named, where the engine only names its own trouble.
    """
    frame = nw.from_native(records)
    try:
        table: ir.Table = nw.to_native(frame.select(**frames.beside(contract), **wanted))
        table.limit(1).to_pyarrow()
    except Exception:
        for name, expression in wanted.items():
            try:
                nw.to_native(frame.select(**{name: expression})).limit(1).to_pyarrow()
            except Exception as error:
                said = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise PilotError(
                    f"the feature '{name}' cannot be computed: {said}",
                    where="features.py",
                    mend="A feature is a number, made row by row from the contract's fields; let sources.py "
                    "turn dates into numbers.",
                ) from error
        raise
    return table


def divide(records: ir.Table, contract: Contract, test_share: float) -> Split:
    """Divide labelled records by time, the latest ``test_share`` of them for the test.

    Training stops ``label_arrives_after_days`` before the cut: later outcomes were not known on that day,
    and a model trained on them would have known the future.

    Raises:
        CheckFailed: One side would be empty.
    """
    known = records.filter(records[contract.label].notnull())
    days = known.group_by(day=contract.event_time).agg(rows=ibis._.count()).order_by("day")
    counted = [(row["day"], row["rows"]) for row in days.to_pyarrow().to_pylist()]
    total = sum(rows for _, rows in counted)
    seen = 0
    cut: date | None = None
    for day, rows in counted:
        if seen >= total * (1 - test_share):
            cut = day
            break
        seen += rows
    if cut is None:
        raise CheckFailed(
            f"{total} records with a known outcome on {len(counted)} days cannot be divided by time",
            where="params.yaml split.test_share",
            mend="Bring more history, or a larger share.",
        )
    last = cut - timedelta(days=contract.label_arrives_after_days)
    if counted[0][0] >= last:
        raise CheckFailed(
            f"no record is older than {last}, when the last outcome known on {cut} was decided",
            where="params.yaml split.test_share",
            mend=f"Bring more than {contract.label_arrives_after_days} days of history before the test.",
        )
    time = known[contract.event_time]
    train = known.filter(time < ibis.date(last.isoformat()))
    test = known.filter(time >= ibis.date(cut.isoformat()))
    if contract.entities_apart:
        trained = train.select(_trained=contract.entity).distinct()
        test = test.anti_join(trained, test[contract.entity] == trained["_trained"])
        if not test.count().to_pyarrow().as_py():
            raise CheckFailed(
                "every entity of the test was trained on before",
                where="contract.py entities_apart",
                mend="Bring entities that came later, or judge it on known ones: entities_apart=False.",
            )
    return Split(train, test, cut)
