"""The gap from the pilot's data to production's: each difference is found, ranked, told with its mend."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import ibis
import polars as pl
import pytest

from harness.cli.main import _run as pilot
from harness.data.gap import Gap, compare
from harness.data.gap_kinds import KINDS
from harness.data.profile import build_profile
from harness.data.profiled import Profile
from harness.data_settings import Gap as Bounds
from harness.errors import Inconclusive
from harness.pilot import Choice, Contract, Field
from harness.pipeline import layout
from harness.settings import Data

CONTRACT = Contract(
    key="reading",
    entity="machine",
    event_time="day",
    label="failed",
    label_arrives_after_days=7,
    decision=Choice("inspect", "leave"),
    fields=(
        Field("reading", "text", "x"),
        Field("machine", "text", "x"),
        Field("day", "date", "x"),
        Field("heat", "number", "x", required=False),
        Field("site", "text", "x", categories=("north", "south", "west"), required=False),
    ),
)
ROWS = 400
Change = Callable[[pl.DataFrame], pl.DataFrame]
TOML = """
[pilot]
name = "Wear <b>"
package = "wear"
purpose = "x"
use_case = "classification"
team = "x"
owner = "x"
on_call = "x"
risk_tier = "minimal"
data_classification = "internal"
[sources.plant]
kind = "csv"
path = "var/sources/plant"
"""


def frame() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "reading": [f"r{number:05d}" for number in range(ROWS)],
            "machine": [f"m{number % 40:03d}" for number in range(ROWS)],
            "day": [date(2025, 1, 1) + timedelta(days=number) for number in range(ROWS)],
            "written": [f"{number % 28 + 1:02}.03.2025" for number in range(ROWS)],
            "heat": [None if number % 50 == 0 else float(number % 97) for number in range(ROWS)],
            "site": [("north", "south")[number % 2] for number in range(ROWS)],
            "failed": [number % 5 == 0 for number in range(ROWS)],
        }
    )


def profiled(found: pl.DataFrame, package: str = "wear") -> Profile:
    table = ibis.duckdb.connect().create_table("t", found.to_arrow())
    records = table.drop("written") if "written" in table.columns else table
    origin = {"origin": "real", "digest": "d"}
    return build_profile({"readings": table}, records, CONTRACT, Data(), package=package, origin=origin)


PILOT = profiled(frame())


def gap(change: Change, **bounds: float) -> Gap:
    return compare(PILOT, profiled(change(frame())), Bounds(**bounds))


def first(share: float) -> pl.Expr:
    """The first rows, as a share of all."""
    return pl.int_range(pl.len()) < share * ROWS


def some(column: str, share: float, value: Any) -> Change:
    return lambda found: found.with_columns(
        pl.when(first(share)).then(pl.lit(value)).otherwise(pl.col(column)).alias(column)
    )


# What production does otherwise, and the difference that has to be told.
FAULTS: dict[str, tuple[Change, str]] = {
    "many values are gone": (some("heat", 0.25, None), "missing.grew:records:heat"),
    "and in the source": (some("heat", 0.25, None), "missing.source:raw.readings:heat"),
    "blanks for values": (some("written", 0.2, " "), "missing.source:raw.readings:written"),
    "words for values": (some("written", 0.2, "N/A"), "missing.source:raw.readings:written"),
    "a few where none ever was": (some("site", 0.02, None), "missing.unseen:records:site"),
    "another way to write a day": (some("written", 0.1, "2025-03-07"), "formats.new:raw.readings:written"),
    "a category that was never seen": (some("site", 0.02, "west"), "categories.new:records:site"),
    "one that nobody declared": (some("site", 0.02, "mars"), "categories.new:records:site"),
    "others prevail": (some("site", 0.6, "north"), "categories.mix:records:site"),
    "numbers beyond": (some("heat", 0.05, 5_000.0), "range.beyond:records:heat"),
    "another unit": (
        lambda found: found.with_columns(pl.col("heat") * 100),
        "range.centre:records:heat",
    ),
    "rows loaded twice": (lambda found: pl.concat([found, found[:40]]), "duplicates.grew:raw.readings"),
    "two truths about one": (
        lambda found: pl.concat([found, found[:40].with_columns(pl.col("heat") + 1)]),
        "keys.repeated:raw.readings:reading",
    ),
    "a column is gone": (lambda found: found.drop("written"), "column.gone:raw.readings:written"),
    "and another type": (
        lambda found: found.with_columns(pl.col("heat").cast(pl.String)),
        "type.changed:records:heat",
    ),
    "the outcome is more frequent": (some("failed", 0.2, True), "label.rate:records:failed"),
    "months without a record": (
        lambda found: found.filter(pl.col("day").dt.month() != 6),
        "time.gaps:records:day",
    ),
    "thirty times the volume": (
        lambda found: pl.concat(
            [found.with_columns(pl.col("reading") + f"-{part}") for part in "abcdefghijklmnopqrstuvwxyzABCD"]
        ),
        "volume:records",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_difference_is_told_with_what_it_does_and_its_mend(fault: str) -> None:
    change, wanted = FAULTS[fault]
    found = {each.id: each for each in gap(change).worse}
    assert wanted in found
    assert found[wanted].hurts == KINDS[found[wanted].kind].hurts
    assert found[wanted].severity in ("high", "medium")


def test_the_same_data_has_no_gap() -> None:
    assert gap(lambda found: found).worse == ()
    assert gap(lambda found: found.sample(fraction=1.0, shuffle=True, seed=1)).findings == ()


def test_a_bound_says_from_where_on_a_difference_is_worse() -> None:
    change = some("heat", 0.25, None)
    assert gap(change, missing_share=0.5).worse == ()
    assert "missing.grew:records:heat" in {each.id for each in gap(change, missing_share=0.5).findings}


def test_what_is_gone_comes_before_what_is_more_often_missing_and_the_worst_missing_first() -> None:
    def change(found: pl.DataFrame) -> pl.DataFrame:
        return some("heat", 0.5, None)(some("site", 0.1, None)(found)).drop("written")

    ids = [each.id for each in gap(change).worse if each.table == "records" or each.kind == "column.gone"]
    assert ids[0] == "column.gone:raw.readings:written"
    assert ids.index("missing.grew:records:heat") < ids.index("missing.grew:records:site")


def test_a_column_that_was_renamed_is_told_with_its_new_name() -> None:
    found = gap(lambda found: found.rename({"written": "written_on"}))
    (gone,) = [each for each in found.worse if each.kind == "column.gone"]
    assert "written_on" in gone.what


def test_longer_numbers_are_no_new_way_of_writing_unless_all_were_alike() -> None:
    def codes(*values: str) -> pl.DataFrame:
        return frame().with_columns(written=pl.Series([values[n % len(values)] for n in range(ROWS)]))

    def new(before: pl.DataFrame, now: pl.DataFrame) -> set[str]:
        return {each.kind for each in compare(profiled(before), profiled(now), Bounds()).worse}

    assert "formats.new" not in new(codes("7", "77"), codes("777", "7777"))
    assert "formats.new" in new(codes("7777", "1234"), codes("777", "7777"))


def test_a_pilot_of_half_a_year_saw_no_whole_cycle() -> None:
    half = profiled(frame().filter(pl.col("day") < date(2025, 7, 1)))
    found = {each.id: each for each in compare(half, PILOT, Bounds()).worse}
    assert "6 months in a row of a cycle of 12" in found["time.cycle:records:day"].what
    assert "07, 08, 09" in found["time.unseen_months:records:day"].what


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (PILOT, profiled(frame(), package="other"), "of two pilots"),
        (PILOT, profiled(frame()[:0]), "no records"),
        (
            PILOT.model_copy(update={"tables": {"raw.a": PILOT.tables["raw.readings"]}}),
            PILOT.model_copy(update={"tables": {"raw.b": PILOT.tables["raw.readings"]}}),
            "no column in common",
        ),
    ],
)
def test_what_cannot_be_compared_is_no_pass(before: Profile, now: Profile, said: str) -> None:
    with pytest.raises(Inconclusive, match=said):
        compare(before, now, Bounds())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "pilot.toml").write_text(TOML, encoding="utf-8")
    layout.write_json(tmp_path / layout.PROFILE, PILOT.document())
    return tmp_path


def run(root: Path, *arguments: str) -> int:
    return pilot(["--root", str(root), *arguments])


def test_the_pilots_profile_is_kept_and_not_overwritten_by_productions(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(root, "gap") == 2
    assert "pilot profile --keep-as-pilot" in capsys.readouterr().err
    assert run(root, "profile", "--keep-as-pilot") == 0
    assert run(root, "profile", "--keep-as-pilot") == 0
    assert run(root, "gap") == 0
    change, _ = FAULTS["many values are gone"]
    layout.write_json(root / layout.PROFILE, profiled(change(frame())).document())
    kept = (root / layout.PILOT_PROFILE).read_bytes()
    capsys.readouterr()
    assert run(root, "profile", "--keep-as-pilot") == 2
    assert "another profile is kept as the pilot's. Delete it first" in capsys.readouterr().err
    assert (root / layout.PILOT_PROFILE).read_bytes() == kept
    assert run(root, "gap") == 1


def test_a_gap_that_cannot_be_judged_ends_with_3(root: Path) -> None:
    layout.write_json(root / layout.PILOT_PROFILE, profiled(frame(), package="other").document())
    assert run(root, "gap") == 3


def test_what_was_found_is_told_in_lines_as_json_and_as_a_page(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(found: pl.DataFrame) -> pl.DataFrame:
        return some("heat", 0.3, None)(some("written", 0.1, "<i>7</i>")(found))

    layout.write_json(root / "pilot.json", PILOT.document())
    layout.write_json(root / layout.PROFILE, profiled(change(frame())).document())
    page = root / "gap.html"
    assert run(root, "gap", str(root / "pilot.json"), "--html", str(page)) == 1
    told = capsys.readouterr().out
    assert "records.heat: 31." in told
    assert f"mend: {KINDS['missing.grew'].mend}" in told
    assert run(root, "gap", str(root / "pilot.json"), "--json") == 1
    document = json.loads(capsys.readouterr().out)
    assert document["records"] == {"pilot": 400, "production": 400}
    assert document["findings"][0]["id"] == "missing.grew:records:heat"
    assert document["findings"][0]["worse"] is True
    html = page.read_text(encoding="utf-8")
    assert html.count("<svg") >= 4
    assert "Wear &lt;b&gt;" in html
    assert "<i>" not in html
    assert not re.findall(r"(?:src|href)=.?https?:", html)


def test_a_profile_is_told_in_a_few_lines(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root, "profile") == 0
    told = capsys.readouterr().out
    assert "records: 400 rows, 0 of them exact duplicates" in told
    assert "14 months in a row, which covers a business cycle of 12" in told
    assert "population: none is declared" in told
    assert run(root, "profile", "--json") == 0
    assert json.loads(capsys.readouterr().out)["package"] == "wear"
