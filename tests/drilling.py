"""A tiny pilot that can be drilled: in a repository, with the standard's code in it, a model and records."""

from __future__ import annotations

import random
import shutil
import subprocess
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import harness
from harness.pipeline import layout

SOURCE = Path(harness.__file__).parent
IDENTITY = ("-c", "user.name=test", "-c", "user.email=test@example.invalid", "-c", "commit.gpgsign=false")
SCHEMA = {"covered": pl.Boolean, "slope": pl.Float64}
ROWS = 600
# A rule of each severity, and all that the contract can say of records as a whole.
MORE = """
    rules=(
        Rule("deep_is_covered", lambda it: (it["depth_cm"] <= 100) | it["covered"], "None is deep outside"),
        Rule("no_mud", lambda it: it["dryness"] + it["depth_cm"] > 3, "Mud is no reading", severity="stop"),
        Rule("mostly_dry", lambda it: it["dryness"] > 1, "Wet plots are rare", severity="warn"),
    ),
    unique=(("plot", "measured_on"),),
    volume=Volume(at_least=100, window_days=20, drop_to=0.3),
"""


@pytest.fixture
def drillable(tiny: Any) -> Any:
    """The tiny pilot in a repository, with the standard's code in it, a model that decides, and records."""
    digest = tiny.offered()
    assert digest
    record = {**tiny.record, "measured_on": date(2026, 3, 1)}
    rows = [{**record, "reading": f"r-{number}", "plot": f"p-{number}"} for number in range(40)]
    pl.DataFrame(rows, schema_overrides=SCHEMA).write_parquet(tiny.root / layout.TEST_RECORDS)
    code = tiny.root / "harness" / "src" / "harness"
    shutil.copytree(SOURCE, code, ignore=shutil.ignore_patterns("__pycache__"))
    (tiny.root / ".gitignore").write_text("/var/\n/data/\n__pycache__/\n")
    for command in (["init", "-q", "-b", "main"], ["add", "-A"], [*IDENTITY, "commit", "-qm", "start"]):
        subprocess.run(["git", *command], cwd=tiny.root, check=True)
    return tiny


def valid_records(count: int = ROWS) -> pl.DataFrame:
    """Records that keep the richer contract, of 200 days, whose outcome no single field tells."""
    chance = random.Random(7)
    rows = [
        {
            "reading": f"r-{number:04}",
            "plot": f"p-{number % 50}",
            "measured_on": date(2026, 1, 1) + timedelta(days=number * 200 // count),
            "dryness": chance.uniform(3, 100),
            "depth_cm": chance.randint(1, 100),
            "crop": chance.choice(["barley", "maize", None]),
            "covered": chance.choice([True, False, None]),
            "slope": chance.choice([chance.uniform(0, 30), None]),
            "withered": chance.random() < 0.4,
        }
        for number in range(count)
    ]
    return pl.DataFrame(rows, schema_overrides=SCHEMA)


def with_records(tiny: Any, more: str = MORE) -> None:
    """Give the pilot records that kept its contract, and the contract more to say."""
    valid_records().write_parquet(tiny.root / layout.VALID)
    (tiny.root / layout.PARAMS).write_text("split:\n  test_share: 0.25\n")
    file = tiny.root / "src" / "dryfield" / "contract.py"
    text = file.read_text().replace(
        "import Choice, Contract, Field", "import Choice, Contract, Field, Rule, Volume"
    )
    file.write_text(text.replace("    groups=", f"{more.lstrip(chr(10))}    groups=", 1))


def change(tiny: Any, name: str, old: str, new: str) -> None:
    """Edit the standard's code in the pilot."""
    file = tiny.root / "harness" / "src" / "harness" / name
    text = file.read_text()
    assert text.count(old) == 1, name
    file.write_text(text.replace(old, new))
