"""A pilot whose governance is filled in, made from the template's own seeds so that it cannot fall behind."""

from __future__ import annotations

import functools
import hashlib
import re
import subprocess
import tempfile
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from harness.data.profiled import Coverage, Profile, Represented
from harness.governance.document import parse
from harness.governance.documents import KINDS
from harness.pipeline import layout, lineage, record
from harness.readiness import lock
from harness.serving_settings import Slo
from harness.settings import Settings, load_settings
from rendering import ROOT, copy_template, render

TODAY = datetime.now(UTC).date()
SOON = TODAY + timedelta(days=180)
ROLES = ("accountable", "business", "data", "model", "platform", "risk")
TRAINER = ("Theo Trainer", "trainer@example.org")
# What is not free text. Every other TODO of the seeds gets a sentence of its own.
FILLED: dict[str, Any] = {
    "last_reviewed": TODAY,
    "review_by": SOON,
    "last_drill": TODAY,
    "value.baseline": "0.4",
    "value.target": "0.6",
    "eu_ai_act.role": "deployer",
    "eu_ai_act.risk_class": "minimal",
    "risks.0.level": "high",
    "risks.1.level": "medium",
    "risks.2.level": "low",
    "risks.0.evidence": "tests/test_water.py",
    "risks.1.evidence": "docs/runbook.md#input-missing",
    "risks.2.evidence": "pilot.toml",
    "assumptions.1.check": "input-drift",
    "adoption.target_share": "0.6",
    "adoption.by": SOON,
    "training.by": SOON,
    "feedback.reply_within_days": "5",
    "review.held_on": TODAY,
    "pilot_cost": "10000",
    "production.decisions": "100000",
    **{f"production.lines.{number}.cost": "40000.50" for number in range(4)},
    "production.total": "160002",
    **{f"roles.{role}": f"{role}@example.org" for role in ROLES},
}


@functools.cache
def seeds() -> dict[str, str]:
    """The documents as a new pilot gets them, by path."""
    with tempfile.TemporaryDirectory() as scratch:
        template = copy_template(Path(scratch, "template"), lean=True)
        pilot = render(template, Path(scratch, "pilot"))
        found = {}
        for kind in KINDS:
            plain = ROOT / "template" / kind.path
            found[kind.path] = (plain if plain.is_file() else pilot / kind.path).read_text(encoding="utf-8")
    return found


def filled() -> dict[str, str]:
    """Documents of one's own: see `_filled`."""
    return dict(_filled())


@functools.cache
def _filled() -> dict[str, str]:
    """The same with every TODO answered, for a pilot that reads ``probes`` and ``weather``."""
    documents = {}
    for path, text in seeds().items():
        documents[path] = _markdown(text) if path.endswith(".md") else written(_answered(parse(text)))
    integrations = parse(documents["governance/integrations.yaml"])
    systems = integrations["upstream"].values()
    integrations["upstream"] = dict(zip(("probes", "weather"), systems, strict=True))
    documents["governance/integrations.yaml"] = written(integrations)
    owners = parse(documents["governance/owners.yaml"])
    owners["tenure"] = [{**owners["tenure"][0], "year": str(TODAY.year + ahead)} for ahead in range(3)]
    documents["governance/owners.yaml"] = written(owners)
    risks = parse(documents["governance/risks.yaml"])
    risks["risks"][0]["accepted"] = {"role": "accountable", "on": str(TODAY)}
    documents["governance/risks.yaml"] = written(risks)
    tco = parse(documents["governance/tco.yaml"])
    tco["funding"] = [
        {"year": str(TODAY.year + ahead), "amount": "170000", "granted_by": "business"} for ahead in range(3)
    ]
    documents["governance/tco.yaml"] = written(tco)
    assert not [path for path, text in documents.items() if "TODO" in text]
    return documents


def written(values: Any) -> str:
    """A document as YAML; every scalar is a text, as it is read."""
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _answered(value: Any, path: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _answered(each, f"{path}.{name}".lstrip(".")) for name, each in value.items()}
    if isinstance(value, list):
        return [_answered(each, f"{path}.{number}") for number, each in enumerate(value)]
    if not value.startswith("TODO"):
        return value
    return str(FILLED.get(path, f"An answer to {path}"))


def _markdown(text: str) -> str:
    _, front, body = text.split("---\n", 2)
    return f"---\n{written(_answered(parse(front)))}---\n" + re.sub(r"TODO[^\n]*", "All is said.", body)


def git(root: Path, *arguments: str, author: tuple[str, str] = TRAINER) -> str:
    """Run git as somebody."""
    name, address = author
    command = ["git", "-c", f"user.name={name}", "-c", f"user.email={address}", *arguments]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout


def md5(file: Path) -> str:
    return hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()


class Governed:
    """A tiny pilot that may go to shadow: filled, run on real data, committed, locked and signed."""

    def __init__(self, tiny: Any, control: Path) -> None:
        self.tiny, self.root, self.control = tiny, tiny.root, control
        tiny.toml.write_text(f'{tiny.toml.read_text()}\n[control]\nfolder = "{control}"\n{POPULATION}')
        (self.root / ".gitignore").write_text("/var/\n/data/\n__pycache__/\n")
        for name in ("harness/README", "tests/test_water.py", "params.yaml", "dvc.yaml"):
            self.write(name, "# something\n")
        contract = self.root / "src" / "dryfield" / "contract.py"
        contract.write_text(f"{contract.read_text()}{VOUCHED}")
        for path, text in filled().items():
            self.write(path, text)
        git(self.root, "init", "-q", "-b", "main")
        self.run(origin="real")
        self.settle()

    def settings(self) -> Settings:
        return load_settings(self.root)

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def edit(self, path: str, old: str, new: str) -> None:
        text = (self.root / path).read_text(encoding="utf-8")
        assert old in text, f"{old!r} is not in {path}"
        self.write(path, text.replace(old, new, 1))

    def change(self, name: str, do: Callable[[Any], None]) -> None:
        """Change a YAML document by its values."""
        path = f"governance/{name}.yaml"
        values = parse((self.root / path).read_text(encoding="utf-8"))
        do(values)
        self.write(path, written(values))

    def run(self, *, origin: str = "real", **options: Any) -> None:
        """Leave what `pilot run` leaves, without its stages."""
        manifest = self.tiny.package(origin=origin, **options)
        layout.write_json(
            self.root / layout.QUALITY, {"rows": 100, "bad": 0, "bad_share": 0.0, "allowed_share": 0.05}
        )
        layout.write_json(self.root / layout.PROBES, {"schema_version": 1})
        self.profiled()
        self.ingested({"erp": {"may_write": []}, "crm": {"may_write": None}})
        self.lock_data()
        record.note(self.root, manifest)

    def loaded(self, *, slo: dict[str, Any] | None = None, **volume: Any) -> None:
        """Leave what `pilot load` leaves, as committed by now; ``volume`` is what the stated one came to."""
        from harness.readiness import loaded

        promised = Slo(**(slo or {}))
        values = {"rate_per_s": promised.rate_per_s, "requests": 1500, "decided": 1500, **volume}
        step = loaded.Step(**{**STEP, **values})
        verdict, why = loaded.concluded(step, promised)
        found = loaded.LoadTest(
            produced_at=datetime.now(UTC).replace(microsecond=0),
            produced_by="somebody",
            harness="1.0.0",
            cores=2,
            trees={name: lineage.committed_tree(self.root, name) for name in record.TREES},
            model=record.read(self.root).model,
            workers=1,
            clients=1,
            arrivals="poisson",
            seed=1,
            slo=promised,
            verdict=verdict,
            why=why,
            volume=step,
            steps=(),
            knee_per_s=None,
            knee_ended_by="bound",
            replicas=None,
        )
        loaded.write(self.root, found)

    def profiled(self, months: int = 14, barley: float = 0.55, declared: float = 0.5) -> None:
        """Write a profile of so many months in a row, with that share of barley."""
        shares, found = (declared, 1 - declared, 0.0), (barley, 1 - barley, 0.0)
        profile = Profile(
            package="dryfield",
            origin="real",
            digest="0" * 64,
            tables={},
            label="withered",
            coverage=Coverage(
                field="measured_on", longest_run=months, cycle_months=12, covers_cycle=months >= 12
            ),
            population={
                "crop": Represented(
                    labels=("barley", "maize", "(others)"),
                    declared=shares,
                    found=found,
                    distance=abs(barley - declared),
                    psi=0.0,
                    max_distance=0.1,
                )
            },
            population_source="the growers' register",
        )
        layout.write_json(self.root / layout.PROFILE, profile.document())

    def ingested(self, credentials: dict[str, Any]) -> None:
        """Write what ingest says of the accounts that it reads by."""
        layout.write_json(self.root / layout.INGEST, {"credentials": credentials})

    def lock_data(self) -> None:
        """Write dvc.lock for what lies there."""
        outs = [{"path": path, "md5": "0" * 32} for path in ("data/raw", "data/valid.parquet")]
        outs += [{"path": path, "md5": "1" * 32} for path in ("data/features", "data/model", "data/package")]
        evidence = (layout.INGEST, layout.METRICS, layout.QUALITY, layout.PROFILE, layout.PROBES)
        for path in (layout.ORIGIN, *evidence):
            outs.append({"path": path.as_posix(), "md5": md5(self.root / path)})
        self.write("dvc.lock", yaml.safe_dump({"stages": {"all": {"outs": outs}}}))

    def commit(self, author: tuple[str, str] = TRAINER) -> None:
        git(self.root, "add", "--all")
        git(self.root, "commit", "-q", "--allow-empty", "-m", "a change", author=author)

    def settle(self, gate: str = "shadow") -> str:
        """Commit, lock, sign as owners.yaml asks, and commit again; gives the lock's digest."""
        self.commit()
        digest, _ = lock.write(self.root)
        owners = parse((self.root / "governance/owners.yaml").read_text(encoding="utf-8"))
        decision = owners["decisions"][gate]
        roles = (decision["decider"], *decision.get("signs", ()))
        who = [{"role": role, "name": owners["roles"][role]} for role in roles]
        self.sign(*who, gate=gate, evidence=digest)
        self.commit()
        return digest

    def sign(self, *who: dict[str, str], gate: str = "shadow", evidence: str, on: date = TODAY) -> None:
        def do(values: Any) -> None:
            values["sign_offs"] = [{"gate": gate, **one, "on": str(on), "evidence": evidence} for one in who]

        self.change("rollout", do)


STEP: dict[str, Any] = {
    "seconds": 30.0,
    "p50_ms": 5.0,
    "p95_ms": 20.0,
    "p99_ms": 40.0,
    "max_ms": 90.0,
    "throughput_per_s": 50.0,
    "goodput_per_s": 50.0,
    "fallbacks": {},
    "errors": {},
    "client_late_p99_ms": 2.0,
    "client_cpu": 0.02,
    "connections": 32,
}

POPULATION = """
[data.population]
source = "The growers' register of 2026"

[data.population.shares.crop]
barley = 0.5
maize = 0.5
"""
VOUCHED = """
from dataclasses import replace

contract = replace(contract, fields=tuple(replace(one, vouched_by="growers") for one in contract.fields))
"""


def put(values: Any, path: tuple[str | int, ...], value: Any) -> None:
    """Set a value deep in a document."""
    for part in path[:-1]:
        values = values[part]
    values[path[-1]] = value
