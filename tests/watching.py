"""The tiny pilot with a reference, a monitoring.yaml, and decisions made in bulk in the real store."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl

from harness import pilot
from harness.control import read_audit
from harness.pipeline import layout
from harness.pipeline.stages.evaluate import held_back, write_reference
from harness.store import DecisionStore, Outcome, OutcomeStore
from harness.store.decisions import decisions
from rendering import ROOT

PACKAGE = "dryfield"
DOCUMENT = ROOT / "template" / "governance" / "monitoring.yaml"
SOIL = 'Field("soil", "text", "What the ground is; free text, of few values", required=False),'
CHOICE = 'Choice(above="water", below="skip", threshold=0.5)'
HELD_BACK = 4_000
NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
Change = Callable[[pl.DataFrame], pl.DataFrame]


def same(frame: pl.DataFrame) -> pl.DataFrame:
    """Nothing has changed."""
    return frame


def drawn(count: int, seed: int) -> pl.DataFrame:
    """Records of one unchanging world, with scores and outcomes."""
    draw = np.random.default_rng(seed)
    dryness = draw.beta(2, 2, count) * 100
    crop = draw.choice(["barley", "maize"], count, p=[0.7, 0.3])
    return pl.DataFrame(
        {
            "reading": [f"r-{seed}-{number}" for number in range(count)],
            "plot": [f"plot {number % 97}" for number in range(count)],
            "measured_on": ["2026-03-01"] * count,
            "dryness": dryness,
            "depth_cm": draw.integers(5, 40, count),
            "crop": [
                None if gone else str(name)
                for name, gone in zip(crop, draw.random(count) < 0.02, strict=True)
            ],
            "covered": [
                None if gone else bool(yes)
                for yes, gone in zip(draw.random(count) < 0.2, draw.random(count) < 0.1, strict=True)
            ],
            "slope": draw.normal(0, 5, count),
            "soil": draw.choice(["clay", "loam", "sand"], count, p=[0.5, 0.4, 0.1]).tolist(),
            "withered": draw.random(count) < np.clip((dryness - 50) / 20 + 0.5, 0, 1),
        },
        schema_overrides={"measured_on": pl.String, "crop": pl.String, "covered": pl.Boolean},
    )


@dataclass
class Watched:
    """The tiny pilot, watched.

    Attributes:
        tiny: The pilot.
        command: Runs `pilot` in it, as a process.
        here: Runs `pilot` in it, in this process: the same verb without the seconds that its imports take.
        amount: Whether it decides a number and not between two answers.
    """

    tiny: Any
    command: Callable[..., subprocess.CompletedProcess[str]]
    here: Callable[..., subprocess.CompletedProcess[str]]
    digest: str = ""
    seed: int = field(default=100)
    amount: bool = False

    def start(self) -> Watched:
        """Give it a reference, a model that decides everything, and the template's monitoring.yaml."""
        contract = self.tiny.root / "src" / PACKAGE / "contract.py"
        text = contract.read_text()
        text = text.replace('        Field("slope"', f'        {SOIL}\n        Field("slope"')
        if self.amount:
            text = text.replace(CHOICE, 'Amount("l", 0, 1)').replace("import Choice", "import Amount")
        contract.write_text(text)
        self.declare(DOCUMENT.read_text(encoding="utf-8"))
        frame = drawn(HELD_BACK, seed=1).with_columns(pl.col("measured_on").str.to_date())
        declared = pilot.load_contract(PACKAGE)
        scores = (frame["dryness"] / 100).to_numpy()
        (self.tiny.root / "data").mkdir(exist_ok=True)
        counted = held_back(frame, declared, scores, [0.3 if self.amount else "skip"] * frame.height)
        write_reference(self.tiny.settings(), declared, counted, "mae" if self.amount else "f1")
        self.tiny.reference = (self.tiny.root / layout.REFERENCE).read_text()
        self.digest = self.tiny.offered()
        return self

    @property
    def document(self) -> str:
        return (self.tiny.root / "governance" / "monitoring.yaml").read_text(encoding="utf-8")

    def declare(self, text: str) -> None:
        """Put a monitoring.yaml in force."""
        file = self.tiny.root / "governance" / "monitoring.yaml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def edit(self, old: str, new: str) -> None:
        """Change what monitoring.yaml says."""
        assert old in self.document
        self.declare(self.document.replace(old, new))

    def decide(
        self, count: int, change: Change = same, *, window: int = 0, failing: int = 0, **columns: Any
    ) -> pl.DataFrame:
        """Make decisions as the service records them, within one of the windows before NOW, 0 the newest.

        Args:
            count: How many.
            change: What has changed in the world.
            window: In which window.
            failing: In how many of them the model fails and the fallback decides.
            columns: What else is otherwise in the table.
        """
        self.seed += 1
        frame = change(drawn(count, self.seed))
        moments = [NOW - timedelta(hours=24 * window + 12, seconds=number / 100) for number in range(count)]
        names = [name for name in frame.columns if name != "withered"]
        rows = []
        for number, (record, moment) in enumerate(
            zip(frame.select(names).iter_rows(named=True), moments, strict=True)
        ):
            failed = number < failing
            score = None if failed else record["dryness"] / 100
            rows.append(
                {
                    "decision_id": f"d-{self.seed}-{number}",
                    "decided_at": moment.isoformat(timespec="microseconds"),
                    "record_key": record["reading"],
                    "entity": record["plot"],
                    "record": json.dumps(record),
                    "decision": json.dumps(self._decided(score)),
                    "score": score,
                    "reasons": "[]",
                    "served_by": "fallback" if failed else "model",
                    "assigned": "challenger",
                    "why": "model_failed" if failed else "assigned",
                    "model_digest": self.digest,
                    "revision": 1,
                    "bucket": 1,
                    "stage": "sandbox",
                    "sandbox": True,
                    "elapsed_ms": 1.0,
                    **columns,
                }
            )
        store = self.store()
        with store.database.writing("no", "no") as connection:
            connection.execute(decisions.insert(), rows)
        store.close()
        return frame

    def _decided(self, score: float | None) -> str | float:
        if self.amount:
            return 0.3 if score is None else score
        return "water" if score is not None and score >= 0.5 else "skip"

    def know(self, frame: pl.DataFrame, **columns: Any) -> None:
        """Record the outcomes of decisions, as received a day before NOW."""
        store = self.store()
        kind = float if self.amount else bool
        batch = [Outcome(row["reading"], kind(row["withered"])) for row in frame.iter_rows(named=True)]
        OutcomeStore(store.database).add(batch, source="a test")
        with store.database.writing("no", "no") as connection:
            moment = (NOW - timedelta(days=1)).isoformat(timespec="microseconds")
            connection.exec_driver_sql("update outcomes set received_at = ?", (moment,))
        store.close()

    def store(self) -> DecisionStore:
        settings = self.tiny.settings()
        return DecisionStore(settings.sqlite_url(settings.store.url))

    def monitor(self, *options: str, as_process: bool = False, **more: str) -> tuple[int, dict[str, Any]]:
        """`pilot monitor --json`; its exit code and what it found."""
        run = self.command if as_process else self.here
        done = run("monitor", "--json", "--now", NOW.isoformat(), *options, **more)
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, json.loads(done.stdout) if done.stdout else {"error": done.stderr}

    def look(self) -> Any:
        """What the monitor finds, in this process and without acting."""
        from harness.monitor.watch import look

        return look(self.tiny.settings(), NOW, lambda _doing, _share: None)

    def verdicts(self) -> dict[str, str]:
        """Each signal's verdict, in this process."""
        return {each.signal.id: each.verdict for each in self.look().judged}

    def state(self) -> dict[str, Any]:
        """The control state, as it lies on disk."""
        found: dict[str, Any] = json.loads((self.tiny.control / "state.json").read_text(encoding="utf-8"))
        return found

    def audit(self) -> list[dict[str, Any]]:
        """The audit after the offer that starts every test."""
        return read_audit(self.tiny.control)[1:]
