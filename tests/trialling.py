"""The tiny pilot in a stage of its rollout, with decisions made in bulk in the real store."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from harness.control import Slot
from harness.control.audit import AUDIT, START, _hash
from harness.control.permission import bucket
from harness.pipeline import lineage, record
from harness.readiness import gates
from harness.readiness.case import Case, Unknown
from harness.rollout.controller import Look, look
from harness.store import Database
from harness.store.decisions import decisions
from harness.store.outcomes import outcomes
from harness.store.shadow import ByEntity, shadow
from rendering import ROOT
from repositories import commit, git

PACKAGE = "dryfield"
DOCUMENT = ROOT / "template" / "governance" / "rollout.yaml"
NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
OLD = "c" * 64
PERCENT = {"shadow": 0, "early": 10, "broad": 50, "full": 100}
BEFORE = {"shadow": "sandbox", "early": "shadow", "broad": "early", "full": "broad"}


def ago(days: float) -> datetime:
    return NOW - timedelta(days=days)


@dataclass
class Pairs:
    """What a model's time in shadow came to."""

    pairs: int = 3_000
    agreeing: int = 2_700
    errors: int = 0
    dropped: int = 0
    first_at: str | None = ago(39).isoformat()
    last_at: str | None = ago(0.1).isoformat()
    entities: int = 1_500
    days: int = 39
    apart: float = 0.0
    """By how much the entities' mean agreement is below that of the pairs."""

    @property
    def by_entity(self) -> ByEntity:
        runs = self.pairs + self.errors
        paired = self.entities if self.pairs else 0
        agreeing = paired * (self.agreeing / max(self.pairs, 1) - self.apart)
        return ByEntity(paired, agreeing, self.entities, self.entities * self.errors / max(runs, 1))


@dataclass
class Trialling:
    """The tiny pilot on trial.

    Attributes:
        tiny: The pilot.
        digest: The model on trial.
        lines: The audit's lines so far.
    """

    tiny: Any
    digest: str = ""
    stage: str = ""
    lines: list[dict[str, Any]] = field(default_factory=list)
    seed: int = 0

    def start(self) -> Trialling:
        """Give it a model, and the template's rollout.yaml without signals: nobody monitors here."""
        self.digest = self.tiny.package().digest
        text = DOCUMENT.read_text(encoding="utf-8")
        line = "  - {name: performance, measure: signal, signal: performance}\n"
        assert line in text
        self.declare(text.replace(line, ""))
        return self

    @property
    def document(self) -> str:
        return (self.tiny.root / "governance" / "rollout.yaml").read_text(encoding="utf-8")

    def declare(self, text: str) -> None:
        file = self.tiny.root / "governance" / "rollout.yaml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def edit(self, old: str, new: str) -> None:
        assert old in self.document
        self.declare(self.document.replace(old, new))

    def enter(self, stage: str, *, days: float = 60.0, champion: str = "", **changes: Any) -> None:
        """Put a stage in force that was approved so many days ago."""
        self.stage = stage
        slot = Slot(digest=self.digest, pct=PERCENT[stage])
        first = Slot(digest=champion, pct=100) if champion else None
        models = {"champion": slot} if stage == "full" else {"champion": first, "challenger": slot}
        self.tiny.put(**{"rev": 5, "stage": stage, **models, **changes})
        self.audit(ago(days + 30), "approve", "sandbox → shadow, model x: go", 4)
        self.audit(ago(days), "approve", f"{BEFORE[stage]} → {stage}, model {self.digest[:12]}: go", 5)

    def audit(self, at: datetime, action: str, reason: str, revision: int) -> None:
        """Add a line as of then."""
        entry = {"at": at.isoformat(), "actor": "a test", "action": action, "reason": reason}
        entry |= {"revision": revision, "previous": self.lines[-1]["sha256"] if self.lines else START}
        self.lines.append({**entry, "sha256": _hash(entry)})
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in self.lines)
        (self.tiny.control / AUDIT).write_text(text, encoding="utf-8")

    def decide(
        self,
        count: int,
        *,
        failing: float = 0.0,
        wrong: tuple[float, float] | None = None,
        late: float = 0.0,
        each: int = 1,
        since: float = 50.0,
        until: float = 0.01,
        keep: Callable[[int], bool] = lambda _bucket: True,
        **columns: Any,
    ) -> None:
        """Make decisions about as many entities as the service would, spread over days.

        Args:
            count: About how many entities.
            failing: In which share of its decisions the model fails.
            wrong: Which share of decisions is wrong, with the model and without it; no outcomes when None.
            late: Which share of all answers is late.
            each: How many decisions about each entity.
            since: The first so many days ago.
            until: The last so many days ago.
            keep: Which buckets' decisions are on record.
            columns: What is otherwise in the table.
        """
        self.seed += 1
        draw = np.random.default_rng(self.seed)
        chances = draw.random((count * each, 3)).tolist()
        rows, known = [], []
        for number in range(count * each):
            entity = f"plot {self.seed}-{number % count}"
            place = bucket(PACKAGE, entity)
            if not keep(place):
                continue
            fails, errs, lags = chances[number]
            treated = place <= PERCENT[self.stage]
            failed = treated and fails < failing
            at = ago(since - (since - until) * number / max(count * each - 1, 1))
            rows.append(
                {
                    "decision_id": f"d-{self.seed}-{number}",
                    "decided_at": at.isoformat(timespec="microseconds"),
                    "record_key": f"r-{self.seed}-{number}",
                    "entity": entity,
                    "record": "{}",
                    "decision": '"water"',
                    "score": None if failed or not treated else 0.7,
                    "reasons": "[]",
                    "served_by": "model" if treated and not failed else "fallback",
                    "assigned": "challenger" if treated else "fallback",
                    "why": "model_failed" if failed else "assigned" if treated else "outside_rollout",
                    "model_digest": self.digest if treated else None,
                    "revision": 5,
                    "bucket": place,
                    "stage": self.stage,
                    "sandbox": False,
                    "elapsed_ms": 2_000.0 if lags < late else 5.0,
                    **columns,
                }
            )
            if wrong is not None:
                said = "false" if errs < wrong[0 if treated else 1] else "true"
                known.append(
                    {
                        "record_key": rows[-1]["record_key"],
                        "outcome": said,
                        "received_at": NOW.isoformat(),
                        "source": "a test",
                    }
                )
        database = self.database()
        with database.writing("no", "no") as connection:
            connection.execute(decisions.insert(), rows)
            if known:
                connection.execute(outcomes.insert(), known)
        database.close()

    def run_beside(
        self,
        count: int,
        *,
        each: int = 1,
        agreeing: float = 0.95,
        failing: float = 0.0,
        since: float = 39.0,
        until: float = 0.01,
    ) -> None:
        """Run the model beside decisions about so many entities, spread over days; the fallback decides."""
        self.decide(
            count,
            each=each,
            since=since,
            until=until,
            stage="shadow",
            model_digest=None,
            served_by="fallback",
            assigned="fallback",
            why="shadow_stage",
        )
        draw = np.random.default_rng(self.seed)
        rows = []
        for number, (fails, agrees) in enumerate(draw.random((count * each, 2)).tolist()):
            status = "error" if fails < failing else "ok"
            rows.append(
                {
                    "decision_id": f"d-{self.seed}-{number}",
                    "at": ago(since - (since - until) * number / max(count * each - 1, 1)).isoformat(
                        timespec="microseconds"
                    ),
                    "digest": self.digest,
                    "sandbox": False,
                    "status": status,
                    "times": 1,
                    "agrees": agrees < agreeing if status == "ok" else None,
                }
            )
        database = self.database()
        with database.writing("no", "no") as connection:
            connection.execute(shadow.insert(), rows)
        database.close()

    def database(self) -> Database:
        settings = self.tiny.settings()
        return Database(settings.sqlite_url(settings.store.url))

    def monitored(
        self, *, at: datetime = NOW - timedelta(hours=1), digest: str = "", **verdicts: str
    ) -> None:
        """Leave a monitor's report; every signal of the template is ok unless told otherwise."""
        names = (
            "input-drift",
            "input-missing",
            "model-failures",
            "decision-rate",
            "performance",
            "fairness-gap",
        )
        said = dict.fromkeys(names, "ok") | {name.replace("_", "-"): each for name, each in verdicts.items()}
        signals = [
            {"id": name, "model": "challenger", "verdict": verdict, "why": "2 of 3 windows"}
            for name, verdict in said.items()
            if verdict != "absent"
        ]
        document = {
            "at": at.isoformat(),
            "models": [{"role": "challenger", "digest": digest or self.digest}],
            "signals": signals,
        }
        file = self.tiny.root / "var" / "monitor" / "latest.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(document))

    def drilled(self, at: datetime = NOW - timedelta(days=1), only: str = "", **changes: Any) -> None:
        """What the drills left, of the code that is committed; ``only`` one of them."""
        root = self.tiny.root
        if not (root / ".git").exists():
            (root / "harness").mkdir(exist_ok=True)
            (root / "harness" / "kept.txt").write_text("kept\n")
            git(root, "init", "--quiet", "--initial-branch=main")
            commit(root, "Start")
        said = {
            "passed": True,
            "verdict": "passed",
            "produced_at": at.isoformat(),
            "produced_by": "somebody",
            "harness": "1.0.0",
            "cores": 2,
            "trees": {name: lineage.committed_tree(root, name) for name in record.TREES},
            "model": self.digest,
            "figures": {},
            "checks": [{"name": "held", "outcome": "passed", "detail": "it holds"}],
        }
        for name in (only,) if only else ("kill", "data-quality", "integration", "load"):
            file = root / "evidence" / "drills" / f"{name}.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps({**said, "drill": name, **changes}))

    def look(self, now: datetime = NOW) -> Look:
        return look(self.tiny.settings(), now)

    def verdicts(self, now: datetime = NOW) -> dict[str, str]:
        return {each.name: each.verdict for each in self.look(now).judged}

    def asked(self, gate: Any, now: datetime = NOW) -> dict[str, str]:
        """What the gate's checks of the trial find; what is unknown begins with a question mark."""
        case = Case(self.tiny.settings(), gate, now)
        found = {}
        for each in gates.TRIAL:
            if GATES.index(each.gate) > GATES.index(gate):
                continue
            try:
                problems = [f"{one.field}: {one.what}" for one in each.ask(case)]
            except Unknown as error:
                problems = [f"? {error}"]
            if problems:
                found[each.id] = "; ".join(problems)
        case.close()
        return found


GATES: Sequence[str] = ("shadow", "early", "broad", "full")
