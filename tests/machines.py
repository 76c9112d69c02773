"""A pilot about machines, whose stages run in this process: the harness knows nothing of the example."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest

from harness.pipeline import stages
from harness.settings import Settings

PACKAGE = "wear"
FILES = {
    "__init__.py": "",
    "sources.py": """
import ibis
from harness.pilot import Table
tables = (Table("readings", system="plant", files="readings_*.csv"),)
def records(tables):
    t = tables["readings"]
    return t.select("reading", "machine", day=t.day.try_cast("date"), heat=t.heat.try_cast("float64"),
                    life=t.life.try_cast("float64"))
""",
    "contract.py": """
from harness.pilot import Amount, Contract, Field
contract = Contract(
    key="reading", entity="machine", event_time="day", label="life", label_arrives_after_days=7,
    decision=Amount("days", 0, 1000),
    fields=(Field("reading", "text", "number"), Field("machine", "text", "machine"),
            Field("day", "date", "day"), Field("heat", "number", "heat", low=0, high=500, required=False)),
)
""",
    "features.py": """
import narwhals as nw
def features():
    heat = nw.col("heat")
    return {"heat": heat, "hot": nw.when(heat > 90).then(1.0).otherwise(0.0)}
""",
    "model.py": """
import json
import numpy as np
from harness.pilot import Reason
def train(features, label, params):
    heat = features["heat"].fill_null(features["heat"].mean()).to_numpy()
    slope, start = np.polyfit(heat, label, 1)
    return {"slope": slope, "start": start, "mean": float(heat.mean())}
def save(model, folder):
    (folder / "model.json").write_text(json.dumps(model))
def load(folder):
    return json.loads((folder / "model.json").read_text())
def predict(model, features):
    heat = features["heat"].fill_null(model["mean"]).to_numpy()
    return np.clip(heat * model["slope"] + model["start"], 0, 1000)
def reasons(model, features, count):
    return [[Reason("heat", value, model["slope"])][:count] for value in features["heat"]]
""",
    "fallback.py": """
from harness.pilot import Answer
def decide(record):
    return Answer(100.0)
""",
}
SETTINGS = f"""
[pilot]
name = "Wear"
package = "{PACKAGE}"
purpose = "Say how long a part lasts."
use_case = "regression"
team = "plant"
owner = "TODO"
on_call = "TODO"
risk_tier = "minimal"
data_classification = "internal"
[sources.plant]
kind = "csv"
path = "var/sources/plant"
"""


def quiet(_doing: str, _share: float) -> None:
    """Report to nobody."""


@pytest.fixture
def pilot_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A pilot about machines with a year of readings in two files."""
    package = tmp_path / "src" / PACKAGE
    package.mkdir(parents=True)
    for name, text in FILES.items():
        (package / name).write_text(text, encoding="utf-8")
    (tmp_path / "pilot.toml").write_text(SETTINGS, encoding="utf-8")
    (tmp_path / "params.yaml").write_text("split:\n  test_share: 0.25\n", encoding="utf-8")
    write_readings(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "src"))
    yield tmp_path
    for name in [name for name in sys.modules if name == PACKAGE or name.startswith(f"{PACKAGE}.")]:
        del sys.modules[name]


def write_readings(root: Path, change: Callable[[dict[str, str]], dict[str, str]] = dict) -> None:
    source = root / "var" / "sources" / "plant"
    source.mkdir(parents=True, exist_ok=True)
    draw = random.Random(7)
    for part in (0, 1):
        lines = ["reading,machine,day,heat,life"]
        for number in range(300):
            day = date(2025, 1, 1) + timedelta(days=(part * 300 + number) // 2)
            heat = draw.uniform(20, 120)
            row = {
                "reading": f"r{part}{number:04d}",
                "machine": f"m{number % 9}",
                "day": day.isoformat(),
                "heat": f"{heat:.2f}" if number % 20 else "",
                "life": f"{400 - 3 * heat + draw.uniform(-9, 9):.2f}",
            }
            lines.append(",".join(change(row).values()))
        (source / f"readings_{part}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def run(settings: Settings, *names: str) -> list[str]:
    return [stages.load(name).run(settings, quiet) for name in names]
