"""What was set aside can be looked at again, corrected, and taken in; what stops and warns is told."""

from __future__ import annotations

import csv
import json
import stat
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from harness import alerts
from harness.data import corrections
from harness.errors import CheckFailed, PilotError
from harness.monitor import replay
from harness.pilot import load_contract
from harness.pipeline import layout, stages
from harness.settings import Settings, load_settings
from machines import FILES, PACKAGE, pilot_folder, quiet, run, write_readings

__all__ = ["pilot_folder"]

TOO_HOT = ("r00033", "r00133", "r00233")


def too_hot(row: dict[str, str]) -> dict[str, str]:
    return row | (
        {"heat": "900"} if row["reading"].startswith("r00") and row["reading"].endswith("33") else {}
    )


def declare(root: Path, more: str, *, name: str = "contract.py") -> None:
    """Give contract.py more arguments, or a file a new end."""
    file = root / "src" / PACKAGE / name
    text = FILES[name]
    if name == "contract.py":
        text = text.replace("import Amount", "import Rule, Volume, Amount").replace(
            '    key="reading"', f'    {more}\n    key="reading"'
        )
    else:
        text += more
    file.write_text(text, encoding="utf-8")


@pytest.fixture
def aside(pilot_folder: Path) -> Settings:
    """A pilot that has set three records aside."""
    write_readings(pilot_folder, too_hot)
    settings = load_settings(pilot_folder)
    run(settings, "ingest", "validate")
    return settings


def exported(settings: Settings, file: Path) -> list[dict[str, str]]:
    replay.export(settings, file)
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def brought(rows: list[dict[str, str]], file: Path) -> Path:
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return file


def quality(settings: Settings) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(settings.path(layout.QUALITY).read_text())
    return found


def test_what_was_set_aside_is_written_with_its_reasons_for_its_owner_alone(
    aside: Settings, tmp_path: Path
) -> None:
    rows = exported(aside, tmp_path / "aside.csv")
    assert [row["reading"] for row in rows] == list(TOO_HOT)
    assert {row["_reasons"] for row in rows} == {"heat.too_high"}
    assert stat.S_IMODE((tmp_path / "aside.csv").stat().st_mode) == 0o600
    with pytest.raises(PilotError, match="it is there already"):
        replay.export(aside, tmp_path / "aside.csv")


def test_corrected_records_take_the_place_of_those_set_aside_until_the_source_is_mended(
    aside: Settings, tmp_path: Path
) -> None:
    contract = load_contract(PACKAGE)
    rows = exported(aside, tmp_path / "aside.csv")
    for row in rows[:2]:
        row["heat"] = "90.5"
    found = replay.take(aside, contract, brought(rows, tmp_path / "corrected.csv"))
    assert (found.rows, found.taken, found.kept) == (3, 2, 2)
    assert found.named == [(3, "heat: Input should be less than or equal to 500")]
    run(aside, "ingest", "validate")
    valid = {row["reading"]: row for row in pl.read_parquet(aside.path(layout.VALID)).to_dicts()}
    assert len(valid) == 599
    assert [valid[key]["heat"] for key in TOO_HOT[:2]] == [90.5, 90.5]
    assert pl.read_parquet(aside.path(layout.QUARANTINE))["reading"].to_list() == [TOO_HOT[2]]
    assert (quality(aside)["bad"], quality(aside)["corrected"]) == (1, 2)
    # The source is mended for one of the two: there it speaks, and the other correction stays.
    write_readings(aside.root, lambda row: row if row["reading"] == TOO_HOT[0] else too_hot(row))
    run(aside, "ingest", "validate")
    valid = {row["reading"]: row for row in pl.read_parquet(aside.path(layout.VALID)).to_dicts()}
    assert valid[TOO_HOT[0]]["heat"] != 90.5
    assert valid[TOO_HOT[1]]["heat"] == 90.5
    assert quality(aside)["corrected"] == 1


def test_a_correction_that_a_newer_contract_refuses_is_set_aside_again(
    aside: Settings, tmp_path: Path
) -> None:
    rows = exported(aside, tmp_path / "aside.csv")
    for row in rows:
        row["heat"] = "450"
    replay.take(aside, load_contract(PACKAGE), brought(rows, tmp_path / "corrected.csv"))
    run(aside, "validate")
    assert quality(aside)["bad"] == 0
    file = aside.root / "src" / PACKAGE / "contract.py"
    file.write_text(FILES["contract.py"].replace("high=500", "high=400"), encoding="utf-8")
    stages_anew(aside, "validate")
    assert (quality(aside)["bad"], quality(aside)["corrected"]) == (3, 0)


def stages_anew(settings: Settings, *names: str) -> None:
    """Run stages as a new process does, with the team's files read again."""
    for name in [name for name in sys.modules if name == PACKAGE or name.startswith(f"{PACKAGE}.")]:
        del sys.modules[name]
    for name in names:
        stages.load(name).run(settings, quiet)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"reading": "r10000"}, "reading: no record that was set aside has it"),
        ({"day": "31.01.2025"}, "day: must be a date written as 2026-01-31"),
        ({"life": "long"}, "life: it is no outcome"),
        ({"heat": "warm"}, "heat: "),
    ],
)
def test_a_row_that_corrects_nothing_is_refused_with_its_reason(
    aside: Settings, tmp_path: Path, change: dict[str, str], said: str
) -> None:
    rows = [{**exported(aside, tmp_path / "aside.csv")[0], "heat": "90", **change}]
    found = replay.take(aside, load_contract(PACKAGE), brought(rows, tmp_path / "corrected.csv"))
    assert found.taken == 0
    assert found.named[0][1].startswith(said)
    assert not (aside.path(layout.CORRECTIONS) / corrections.FILE).exists()


def test_the_same_key_twice_is_taken_once_and_said(aside: Settings, tmp_path: Path) -> None:
    row = {**exported(aside, tmp_path / "aside.csv")[0], "heat": "90"}
    found = replay.take(aside, load_contract(PACKAGE), brought([row, row], tmp_path / "corrected.csv"))
    assert (found.taken, found.named) == (1, [(2, "reading: the file has it twice")])


def test_a_mended_rule_is_seen_without_running_the_pipeline(aside: Settings) -> None:
    found = replay.again(aside, load_contract(PACKAGE))
    assert (found.rows, found.keep, found.rules) == (3, 0, {"heat.too_high": 3})
    file = aside.root / "src" / PACKAGE / "contract.py"
    file.write_text(FILES["contract.py"].replace("high=500", "high=1000"), encoding="utf-8")
    stages_anew(aside)
    assert replay.again(aside, load_contract(PACKAGE)).keep == 3


def test_a_rule_that_stops_does_so_at_the_first_and_is_told_once_a_day(pilot_folder: Path) -> None:
    declare(
        pilot_folder,
        'rules=(Rule("cool", lambda it: it["heat"] <= 119, "nothing glows", severity="stop", '
        'mend="Call the plant."),),',
    )
    settings = load_settings(pilot_folder)
    run(settings, "ingest")
    for _ in range(2):
        with pytest.raises(CheckFailed, match=r"break 'cool', which stops at the first.*Call the plant"):
            run(settings, "validate")
    told = (settings.path(alerts.FOLDER) / "alerts.jsonl").read_text().splitlines()
    assert len(told) == 1
    assert "'cool'" in json.loads(told[0])["text"]


def test_a_rule_that_warns_is_told_and_the_pipeline_goes_on(pilot_folder: Path) -> None:
    declare(
        pilot_folder,
        'rules=(Rule("cool", lambda it: it["heat"] <= 119, "nothing glows", severity="warn"),),',
    )
    settings = load_settings(pilot_folder)
    said = run(settings, "ingest", "validate")[-1]
    assert "to look at: cool " in said
    assert quality(settings)["bad"] == 0
    (told,) = (settings.path(alerts.FOLDER) / "alerts.jsonl").read_text().splitlines()
    assert json.loads(told)["trouble"] == "data cool"


def test_an_extract_that_broke_off_stops_the_pipeline(pilot_folder: Path) -> None:
    declare(pilot_folder, "volume=Volume(drop_to=0.5),")
    settings = load_settings(pilot_folder)
    run(settings, "ingest", "validate")
    file = pilot_folder / "var" / "sources" / "plant" / "readings_1.csv"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([*lines[:240], *lines[-5:]]))
    with pytest.raises(CheckFailed, match=r"the last 30 days have \d+ records, and 60 are usual"):
        run(settings, "ingest", "validate")


EXPECTS = """
from harness.pilot import Expectation
def expectations(tables):
    t = tables["readings"]
    return [
        Expectation("known_machine", t.filter(t.machine == "m8"), "only m0 to m7 are in the register",
                    severity={severity!r}, at_most={at_most}, mend="Ask the plant."),
    ]
"""


def test_an_expectation_of_the_sources_stops_before_anything_is_replaced(pilot_folder: Path) -> None:
    settings = load_settings(pilot_folder)
    run(settings, "ingest")
    before = settings.path(layout.RECORDS).read_bytes()
    declare(pilot_folder, EXPECTS.format(severity="stop", at_most=10), name="sources.py")
    with pytest.raises(CheckFailed, match=r"'known_machine': 66 rows are against it, and 10 may be.*Ask"):
        stages_anew(settings, "ingest")
    assert settings.path(layout.RECORDS).read_bytes() == before


@pytest.mark.parametrize(("severity", "at_most", "told"), [("stop", 66, 0), ("warn", 10, 1)])
def test_an_expectation_that_is_met_or_warns_lets_the_pipeline_go_on(
    pilot_folder: Path, severity: str, at_most: int, told: int
) -> None:
    declare(pilot_folder, EXPECTS.format(severity=severity, at_most=at_most), name="sources.py")
    settings = load_settings(pilot_folder)
    run(settings, "ingest")
    assert json.loads(settings.path(layout.ORIGIN).read_text())["against"] == {"known_machine": 66}
    file = settings.path(alerts.FOLDER) / "alerts.jsonl"
    assert len(file.read_text().splitlines() if file.exists() else []) == told


def test_an_expectation_that_cannot_be_computed_is_named(pilot_folder: Path) -> None:
    wrong = 'def expectations(tables):\n    return [Expectation("x", None, "")]\n'
    declare(pilot_folder, f"from harness.pilot import Expectation\n{wrong}", name="sources.py")
    with pytest.raises(PilotError, match="the expectation 'x' cannot be computed"):
        run(load_settings(pilot_folder), "ingest")


def test_an_extract_that_gives_last_months_file_stops_only_real_data(pilot_folder: Path) -> None:
    declare(pilot_folder, "fresh_within_days=3,")
    settings = load_settings(pilot_folder)
    with pytest.raises(CheckFailed, match="the newest record may be 3 days old, and it is of 2025-10-27"):
        run(settings, "ingest")
    newest = datetime.now(UTC).date() - timedelta(days=2)
    write_readings(
        pilot_folder, lambda row: row | ({"day": newest.isoformat()} if row["reading"] == "r10299" else {})
    )
    run(settings, "ingest")


def test_the_data_card_says_what_the_contract_says(pilot_folder: Path) -> None:
    declare(
        pilot_folder,
        'rules=(Rule("cool", lambda it: it["heat"] <= 999, "nothing | glows", vouched_by="plant"),),',
    )
    settings = load_settings(pilot_folder)
    run(settings, "ingest", "validate")
    text = settings.path(layout.DATA_CARD).read_text()
    assert "| `heat` | number | heat | 0 to 500 | 5.00% | nobody |" in text
    assert "| `cool` | nothing \\| glows | quarantine | 0 | — | plant |" in text
    assert "Vouched for by plant. Nobody vouches for `reading`, `machine`, `day`, `heat`." in text
