"""What every benchmark shares: interleaved runs, medians, and a plain table.

The machine may be shared, so a time on its own says little. Each subject takes turns with a peer or a floor
in the same run, the ratio is the median of the pairs' ratios, and nothing is asserted: a benchmark reports.
`python benchmarks/measure.py` prints one table of all that was measured last.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from harness.progress import working

ROOT = Path(__file__).resolve().parents[1]
SCRATCH = ROOT / "scratch"
RESULTS = SCRATCH / "benchmarks"

Samples = Sequence[float]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: What was measured.
        measured: Every run's value.
        unit: The values' unit.
        peer: What it is held against; empty for a value that stands alone.
        beside: The peer's value in the same turn, one for each of ``measured``.
        at_most: The target, where there is one.
        at_least: The target where more is better.
        target_is_ratio: Whether the target is for the ratio rather than for the value.
    """

    what: str
    measured: Samples
    unit: str
    peer: str = ""
    beside: Samples = ()
    at_most: float | None = None
    target_is_ratio: bool = False
    at_least: float | None = None

    @property
    def ratio(self) -> float | None:
        """The median over the turns of measured to peer."""
        if not self.beside:
            return None
        return median(own / other for own, other in zip(self.measured, self.beside, strict=True))

    @property
    def cells(self) -> tuple[str, ...]:
        """What / measured / peer or floor / ratio / target, as text, also where nothing was measured."""
        ratio = self.ratio
        peer = f"{_amount(self.beside, self.unit)} {self.peer}" if self.beside else self.peer
        return (
            self.what,
            _amount(self.measured, self.unit) if self.measured else "not measured",
            peer or "–",
            "–" if ratio is None else f"{ratio:.2f}",
            self._target(),
        )

    def _target(self) -> str:
        if not self.measured:
            return "–"
        value = self.ratio if self.target_is_ratio else median(self.measured)
        unit = "times" if self.target_is_ratio else self.unit
        if self.at_most is not None:
            verdict = "met" if value is not None and value <= self.at_most else "OVER"
            return f"≤ {self.at_most:g} {unit}: {verdict}"
        if self.at_least is not None:
            verdict = "met" if value is not None and value >= self.at_least else "UNDER"
            return f"≥ {self.at_least:g} {unit}: {verdict}"
        return "–"


def take_turns(
    subjects: Mapping[str, Callable[[], float]], *, rounds: int, title: str
) -> dict[str, list[float]]:
    """Run every subject once a round, another one first each round.

    Returns:
        Each subject's values, in the order of the rounds.
    """
    names = list(subjects)
    values: dict[str, list[float]] = {name: [] for name in names}
    with working(title) as report:
        for turn in range(rounds):
            for place in range(len(names)):
                name = names[(turn + place) % len(names)]
                report(name, (turn * len(names) + place) / (rounds * len(names)))
                values[name].append(subjects[name]())
    return values


def publish(name: str, rows: Sequence[Row], *, notes: Sequence[str] = ()) -> None:
    """Print a benchmark's table and keep it for the table over all."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    document = {"circumstances": circumstances(), "rows": [asdict(row) for row in rows]}
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(table(rows))
    for note in notes:
        print(note)
    print(document["circumstances"], flush=True)


def circumstances() -> str:
    """When and on what this was measured."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    when = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    machine = f"Python {platform.python_version()}, {os.cpu_count()} cores, load {load}"
    return f"{when}, {machine}. Medians, range in brackets; ratios are medians over turns."


def table(rows: Sequence[Row]) -> str:
    """Rows as aligned text that is also a Markdown table."""
    lines = [("what", "measured", "peer or floor", "ratio", "target"), *(row.cells for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]

    def joined(cells: Sequence[str], fill: str = " ") -> str:
        return (
            "| "
            + " | ".join(cell.ljust(width, fill) for cell, width in zip(cells, widths, strict=True))
            + " |"
        )

    return "\n".join([joined(lines[0]), joined(["-"] * len(widths), "-"), *map(joined, lines[1:])])


def _amount(values: Samples, unit: str) -> str:
    spread = f" ({_number(min(values))}–{_number(max(values))})" if len(set(values)) > 1 else ""
    return f"{_number(median(values))} {unit}{spread}"


def _number(value: float) -> str:
    digits = 0 if value >= 100 or value == int(value) else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}"


def _everything() -> None:
    rows = []
    for file in sorted(RESULTS.glob("*.json")):
        document = json.loads(file.read_text(encoding="utf-8"))
        print(f"{file.stem}: {document['circumstances']}")
        rows += [Row(**values) for values in document["rows"]]
    print(table(rows) if rows else "Nothing was measured yet: make bench")


if __name__ == "__main__":
    _everything()
