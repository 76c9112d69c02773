"""The comparison is right to the figure, too little is never enough, and the page shows what was found."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.control import Slot, kill
from harness.monitor import shadow_compare
from harness.monitor.shadow import Least, Share
from harness.monitor.shadow_compare import compare
from harness.pilot import Amount, Choice, Contract, Field
from harness.pipeline.reference import Profile, Reference
from harness.store import Decision, DecisionStore, Outcome, OutcomeStore, Shadowed, ShadowStore
from harness.store.shadow import ByEntity, Summary, summary
from rendering import ROOT
from shadowing import Said, write

Pilot = Callable[..., subprocess.CompletedProcess[str]]
B, OTHER = "b" * 64, "e" * 64
CONTRACT = Contract(
    key="reading",
    entity="plot",
    event_time="day",
    label="withered",
    label_arrives_after_days=1,
    decision=Choice("water", "skip"),
    groups=("crop", "covered", "dryness"),
    fields=(
        Field("reading", "text", ""),
        Field("plot", "text", ""),
        Field("day", "date", ""),
        Field("crop", "text", "", categories=("barley", "maize")),
        Field("covered", "boolean", ""),
        Field("dryness", "number", ""),
    ),
)
SIX = [
    Said("water", 0.8, "water", 0.9, {"crop": "maize", "covered": True, "dryness": 10.0}, True, 1.0),
    Said("water", 0.8, "skip", 0.4, {"crop": "maize", "covered": True, "dryness": 20.0}, True, 2.0),
    Said("skip", 0.2, "water", 0.6, {"crop": "barley", "covered": False, "dryness": 20.5}, True, 3.0),
    Said("skip", 0.2, "skip", 0.1, {"crop": "barley", "covered": None, "dryness": 30.0}, False, 4.0),
    Said("skip", None, "water", 0.95, {"crop": "maize", "covered": None, "dryness": None}, None, 5.0),
    Said("skip", None, "skip", 0.3, {"crop": None, "covered": None, "dryness": 99.0}, False, 6.0),
]
FAILURES = [
    Shadowed("2026-03-01T05:00:00", B, False, status, decision_id=f"f-{number}")
    for number, status in enumerate(["error", "error", "too_slow", "invalid"])
] + [Shadowed("2026-03-01T05:00:00", B, False, "dropped", times=10)]
NOTHING = Least(0, 0.0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DecisionStore]:
    opened = DecisionStore(f"sqlite:///{tmp_path / 'd.db'}")
    yield opened
    opened.close()


def compared(
    store: DecisionStore, contract: Contract = CONTRACT, reference: Any = None, size: int = 10
) -> Any:
    kept = ShadowStore(store.database)
    return compare(B, kept.counts(B), kept.pairs(B, size=size), contract, reference, NOTHING, sandbox=False)


@pytest.mark.parametrize("size", [1, 2, 100])
def test_every_figure_is_the_one_computed_by_hand(store: DecisionStore, size: int) -> None:
    write(store, B, SIX)
    ShadowStore(store.database).add(FAILURES)
    found = compared(store, size=size)
    assert (found.counts.total, found.agreement) == (20, Share(3, 6))
    # Wilson's interval by its formula, z = 1.959964: 0.5 ± z √(0.25/6 + z²/144) / (1 + z²/6)
    assert found.agreement.interval == pytest.approx((0.187617, 0.812383), abs=1e-5)
    assert (found.rate("error", "too_slow", "invalid"), found.rate("dropped")) == (0.2, 0.5)
    assert found.elapsed_ms == pytest.approx((3.5, 5.95))
    deltas = found.deltas  # +0.1, -0.4, +0.4, -0.1
    assert (deltas.pairs, deltas.mean, deltas.mean_distance) == (4, pytest.approx(0), pytest.approx(0.25))
    assert deltas.percentiles == pytest.approx((-0.355, 0.0, 0.355))
    assert (sum(deltas.counts), deltas.counts[0], deltas.counts[-1]) == (4, 1, 1)
    assert sum(map(sum, deltas.grid)) == 4
    assert deltas.grid[16][8] == 1  # 0.8 decided, 0.4 in shadow
    truth = found.truth
    assert (truth.outcomes, truth.served_better, truth.shadow_better, truth.chance) == (5, 1, 1, 1.0)
    assert (truth.served_error, truth.shadow_error) == pytest.approx((0.2, 0.2))


def test_the_parts_add_up_to_the_whole(store: DecisionStore) -> None:
    write(store, B, SIX)
    found = compared(store)
    assert [(each.field, each.label, each.agreement) for each in found.segments] == [
        ("decision", "skip", Share(2, 4)),
        ("decision", "water", Share(1, 2)),
        ("decided by", "champion", Share(2, 4)),
        ("decided by", "fallback", Share(1, 2)),
        ("crop", "barley", Share(1, 2)),
        ("crop", "maize", Share(1, 3)),
        ("crop", "(missing)", Share(1, 1)),
        ("covered", "false", Share(0, 1)),
        ("covered", "true", Share(1, 2)),
        ("covered", "(missing)", Share(2, 3)),
    ]
    assert list(found.left_out) == ["dryness"]


def test_a_number_is_divided_as_the_models_reference_says(store: DecisionStore) -> None:
    write(store, B, SIX)
    dryness = Profile(kind="number", edges=(20.0, 30.0), counts=(1, 1, 1), missing=0)
    reference = Reference.model_construct(fields={"dryness": dryness}, left_out={})
    found = compared(store, reference=reference)
    parts = {each.label: each.agreement for each in found.segments if each.field == "dryness"}
    # An edge belongs to the part below it, as everywhere in the monitor.
    assert parts == {
        "≤ 20": Share(1, 2),
        "20 – 30": Share(1, 2),
        "> 30": Share(1, 1),
        "(missing)": Share(0, 1),
    }
    assert found.left_out == {}


def test_where_they_part_comes_first_where_the_outcome_shows_one_of_them_wrong(store: DecisionStore) -> None:
    write(store, B, SIX)
    worst = compared(store).worst
    assert [(each.pair.decision_id, each.better) for each in worst] in (
        [("d-000002", "shadow"), ("d-000001", "served"), ("d-000004", None)],
        [("d-000001", "served"), ("d-000002", "shadow"), ("d-000004", None)],
    )
    assert [each.distance for each in worst] == pytest.approx([0.4, 0.4, 0.95])


def test_of_many_only_the_furthest_apart_are_kept(
    store: DecisionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadow_compare, "WORST", 3)
    write(store, B, [Said("water", 0.9, "skip", number / 100) for number in (30, 10, 20, 5, 40, 7)])
    assert [round(each.distance, 2) for each in compared(store).worst] == [0.85, 0.83, 0.8]


def test_amounts_are_held_against_outcomes_by_their_distance(store: DecisionStore) -> None:
    contract = Contract(**{**CONTRACT.__dict__, "decision": Amount("l", 0, 100), "groups": ()})
    said = [
        Said(10.0, 10.0, 14.0, 14.0, outcome=15.0),  # errors 5 and 1
        Said(20.0, 20.0, 19.5, 19.5, outcome=19.0),  # errors 1 and 0.5
        Said(30.0, None, 40.0, 40.0, outcome=30.0),  # errors 0 and 10
    ]
    write(store, B, said, agree=lambda a, b: abs(a - b) <= 1)
    found = compared(store, contract)
    assert found.agreement == Share(1, 3)
    truth = found.truth
    assert (truth.outcomes, truth.served_better, truth.shadow_better) == (3, 1, 2)
    assert (truth.served_error, truth.shadow_error) == pytest.approx((2.0, 11.5 / 3))
    assert truth.chance == pytest.approx(1.0)  # two of three is nothing
    assert [(each.distance, each.better) for each in found.worst] == [(10.0, "served"), (4.0, "shadow")]
    assert "decision" not in {each.field for each in found.segments}


def test_a_division_that_chance_does_not_bring_is_told(store: DecisionStore) -> None:
    write(store, B, [Said("skip", 0.1, "water", 0.9, outcome=True) for _ in range(10)])
    truth = compared(store).truth
    assert (truth.served_better, truth.shadow_better) == (0, 10)
    assert truth.chance == pytest.approx(2 / 2**10)


def test_an_outcome_counts_once_and_as_it_was_corrected(store: DecisionStore) -> None:
    write(
        store,
        B,
        [
            Said("water", 0.9, "skip", 0.1, key="same", outcome=True),
            Said("skip", 0.1, "water", 0.9, key="same"),
        ],
    )
    assert compared(store).truth.shadow_better == 1
    OutcomeStore(store.database).add([Outcome("same", False)], source="a correction")
    truth = compared(store).truth
    assert (truth.outcomes, truth.served_better, truth.shadow_better) == (1, 1, 0)


def test_another_models_pairs_and_those_of_the_sandbox_are_left_out(store: DecisionStore) -> None:
    write(store, B, [*SIX, Said("skip", 0.1, "water", 0.9, sandbox=True)])
    kept = ShadowStore(store.database)
    kept.add([Shadowed("2026-03-01", OTHER, False, "error", decision_id="x")])
    kept.add([Shadowed("2026-03-01", B, True, "dropped", times=7)])
    assert (kept.counts(B).total, kept.counts(B, sandbox=True).total, kept.counts(OTHER).total) == (6, 8, 1)
    assert sum(map(len, kept.pairs(B))) == 6
    assert sum(map(len, kept.pairs(B, sandbox=True))) == 1
    assert sorted(kept.models()) == sorted([B, OTHER])


def test_what_a_gate_is_told(store: DecisionStore) -> None:
    write(store, B, [*SIX, Said("skip", 0.1, "skip", 0.1, sandbox=True)])
    kept = ShadowStore(store.database)
    kept.add(FAILURES)
    first, last = "2026-03-01T00:00:00.000000+00:00", "2026-03-01T05:00:00.000000+00:00"
    assert summary(kept, B, "") == Summary(6, 3, 4, 10, first, last, 1, ByEntity(6, 3.0, 6, 0.0))
    later = summary(kept, B, "2026-03-01T02:00:00.000000+00:00")
    assert (later.pairs, later.agreeing, later.first_at) == (4, 2, "2026-03-01T02:00:00.000000+00:00")
    nothing = Summary(0, 0, 0, 0, None, None, 0, ByEntity(0, 0.0, 0, 0.0))
    assert summary(kept, B, "2027") == nothing
    assert summary(kept, OTHER, "") == nothing


@pytest.mark.parametrize(
    ("pairs", "hours", "missing"),
    [
        (6, 5.0, ()),
        (7, 5.0, ("1 of 7 pairs are missing",)),
        (6, 24.0, ("19.0 of 24 hours are missing",)),
        (1_000, 24.0, ("994 of 1,000 pairs are missing", "19.0 of 24 hours are missing")),
    ],
)
def test_what_there_is_too_little_of_is_said(
    store: DecisionStore, pairs: int, hours: float, missing: tuple[str, ...]
) -> None:
    write(store, B, SIX)
    ShadowStore(store.database).add([Shadowed("2026-03-09", B, False, "dropped", times=5_000)])
    assert Least(pairs, hours).missing(ShadowStore(store.database).counts(B)) == missing


@pytest.fixture
def trial(tiny: Any) -> Any:
    """The tiny pilot with a model on trial, and its store; ``pilot shadow`` looks at it."""
    tiny.put(stage="shadow", challenger=Slot(digest=B, pct=0))
    return tiny


def opened(trial: Any) -> DecisionStore:
    return DecisionStore(trial.settings().sqlite_url(trial.settings().store.url))


def put_in(trial: Any, said: list[Said], rows: list[Shadowed] | None = None) -> None:
    store = opened(trial)
    if said:
        write(store, B, said)
    ShadowStore(store.database).add(rows or [])
    store.close()


MANY = [
    Said("water", 0.8, "skip" if number % 10 == 0 else "water", 0.9, outcome=bool(number % 3))
    for number in range(1_000)
]


def test_enough_is_said_with_all_figures(trial: Any, pilot_here: Pilot) -> None:
    put_in(trial, MANY)
    done = pilot_here("shadow", "report", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["enough"], found["missing"], found["model"]) == (True, [], B)
    assert (found["agreement"]["agreeing"], found["agreement"]["pairs"]) == (900, 1_000)
    assert found["outcomes"]["outcomes"] == 1_000
    assert len(found["worst"]) == 20
    told = pilot_here("shadow", "report")
    assert told.returncode == 0
    assert "ENOUGH: model bbbbbbbbbbbb in shadow, 1,000 pairs" in told.stdout
    assert "90.0% (95%: 88.0% to 91.7%), 900 of 1,000" in told.stdout


@pytest.mark.parametrize(
    ("said", "rows", "told"),
    [
        ([], [], ["0 pairs", "1,000 of 1,000 pairs are missing", "24.0 of 24 hours are missing"]),
        (SIX[:1], [], ["1 pairs", "999 of 1,000 pairs are missing", "100.0% (95%: 20.7% to 100.0%), 1 of 1"]),
        (
            [],
            [Shadowed("2026-03-01", B, False, "dropped", times=40)],
            ["1,000 of 1,000 pairs are missing", "100.0% (40 of 40 dropped)"],
        ),
    ],
    ids=["no pairs", "one pair", "all dropped"],
)
def test_too_little_exits_3_and_says_how_much_is_missing(
    trial: Any, pilot_here: Pilot, tmp_path: Path, said: Any, rows: Any, told: list[str]
) -> None:
    put_in(trial, said, rows)
    page = tmp_path / "page.html"
    done = pilot_here("shadow", "report", "--html", str(page))
    assert done.returncode == 3
    assert done.stdout.startswith("TOO LITTLE")
    for each in told:
        assert each in done.stdout
    assert "Too little to say" in page.read_text(encoding="utf-8")
    document = json.loads(pilot_here("shadow", "report", "--json").stdout, parse_constant=pytest.fail)
    assert document["enough"] is False


def test_what_rollout_yaml_asks_of_the_stage_is_what_is_enough(trial: Any, pilot_here: Pilot) -> None:
    file = trial.root / "governance" / "rollout.yaml"
    file.parent.mkdir()
    document = yaml.safe_load((ROOT / "template" / "governance" / "rollout.yaml").read_text(encoding="utf-8"))
    document["stages"]["shadow"]["leave"]["decisions"] = 2_500
    file.write_text(yaml.safe_dump(document), encoding="utf-8")
    put_in(trial, MANY)
    done = pilot_here("shadow", "report")
    assert (done.returncode, "1,500 of 2,500 pairs are missing" in done.stdout) == (3, True)


def test_a_failure_of_everything_is_no_agreement(trial: Any, pilot_here: Pilot) -> None:
    put_in(trial, [], FAILURES)
    document = json.loads(pilot_here("shadow", "report", "--json").stdout)
    assert document["agreement"] == {"agreeing": 0, "pairs": 0, "share": None, "interval_95": None}
    assert document["rates"]["failed"] == pytest.approx(4 / 14)


def test_the_report_of_the_sandbox_says_that_no_gate_counts_it(tiny: Any, pilot_here: Pilot) -> None:
    tiny.put(stage="sandbox", challenger=Slot(digest=B, pct=0))
    put_in(tiny, [*SIX, Said("skip", 0.1, "skip", 0.1, sandbox=True)])
    done = pilot_here("shadow", "report")
    assert "1 pairs" in done.stdout
    assert "sandbox: no gate counts it" in done.stdout


def test_a_moment_and_a_model_can_be_named(trial: Any, pilot_here: Pilot) -> None:
    put_in(trial, SIX)
    later = pilot_here("shadow", "report", "--json", "--since", "2026-03-01T04:00:00+02:00")
    assert json.loads(later.stdout)["agreement"]["pairs"] == 4
    trial.put(rev=2, stage="shadow", challenger=Slot(digest=OTHER, pct=0))
    assert json.loads(pilot_here("shadow", "report", "--json").stdout)["agreement"]["pairs"] == 0
    named = pilot_here("shadow", "report", "--json", "--model", "bbbb")
    assert json.loads(named.stdout)["agreement"]["pairs"] == 6


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("report", "--model", "f"), 2, "no model whose digest begins so"),
        (("report", "--since", "yesterday"), 2, "--since"),
        (("report", "--since", "2026-03-01"), 2, "offset"),
        (("report", "--html", "/proc/page.html"), 2, "the page cannot be written"),
        (("sample", "101", "--reason", "x"), 2, "less than or equal to 100"),
        (("sample", "5", "--reason", " "), 2, "a reason is needed"),
    ],
)
def test_a_mistake_is_one_line_with_its_mend(
    trial: Any, pilot_here: Pilot, arguments: tuple[str, ...], code: int, told: str
) -> None:
    put_in(trial, SIX)
    done = pilot_here("shadow", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    lines = [line for line in done.stderr.splitlines() if line.startswith("pilot: ")]
    assert len(lines) == 1
    assert told in lines[0]


def test_without_a_model_on_trial_there_is_nothing_to_say(tiny: Any, pilot_here: Pilot) -> None:
    done = pilot_here("shadow", "report")
    assert (done.returncode, "no model is on trial" in done.stderr) == (3, True)
    tiny.put(stage="early", champion=Slot(digest=B, pct=100))
    assert pilot_here("shadow", "report").returncode == 3


def test_the_sample_is_changed_from_the_command_line(trial: Any, pilot_here: Pilot) -> None:
    done = pilot_here("shadow", "sample", "25", "--reason", "half the memory")
    assert (done.returncode, done.stdout.startswith("SHADOW 25% (revision 2)")) == (0, True)
    kill(trial.control, reason="stop")
    told = json.loads(pilot_here("shadow", "sample", "30", "--reason", "more", "--json").stdout)
    assert told == {"shadow_pct": 30, "revision": 4}
    state = json.loads((trial.control / "state.json").read_text(encoding="utf-8"))
    assert (state["shadow_pct"], state["latched"]) == (30, True)


def test_the_page_shows_what_was_found_and_runs_nothing(
    trial: Any, pilot_here: Pilot, tmp_path: Path
) -> None:
    hostile = "<script>alert(1)</script>"
    contract = trial.root / "src" / "dryfield" / "contract.py"
    contract.write_text(contract.read_text().replace('"maize")', f'"maize", "{hostile}")'))
    put_in(trial, [*MANY, Said("water", 0.8, "skip", 0.1, {"crop": hostile})])
    page = tmp_path / "sub" / "page.html"
    done = pilot_here("shadow", "report", "--html", str(page), "--json")
    assert (done.returncode, json.loads(done.stdout)["page"]) == (0, str(page))
    text = page.read_text(encoding="utf-8")
    assert hostile not in text
    assert text.count("<svg") == 3
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert "89.9% of the decisions are the same" in text
    assert "p-3" not in text  # whom a decision is about is not on the page


def test_an_interval_of_nothing_is_none_and_of_all_is_no_certainty() -> None:
    assert (Share(0, 0).value, Share(0, 0).interval) == (None, None)
    low, high = Share(10, 10).interval or (math.nan, math.nan)
    assert (low, high) == (pytest.approx(0.722, abs=1e-3), 1.0)


def test_a_decision_as_it_was_recorded_makes_a_pair(store: DecisionStore) -> None:
    made = Decision(
        "d-1", "2026-03-01", "r-1", "p-1", {"crop": "maize"}, "water", 0.8, [], "model", "champion",
        "assigned", "c" * 64, 1, 7, "early", False, 1.0,
    )  # fmt: skip
    store.record(made)
    row = Shadowed("2026-03-01", B, False, "ok", "d-1", 7, 1, 0.4, '"skip"', False, 2.0)
    ShadowStore(store.database).add([row])
    [[pair]] = list(ShadowStore(store.database).pairs(B))
    assert (pair.served, pair.served_score, pair.shadow, pair.shadow_score) == ('"water"', 0.8, '"skip"', 0.4)
    assert (bool(pair.agrees), pair.outcome, json.loads(pair.record)) == (False, None, {"crop": "maize"})
