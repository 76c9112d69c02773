"""Every rule over the documents finds the one fault that it is for, from its gate on, and says the mend."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from governed import SOON, TODAY, filled, written
from harness.errors import PilotError
from harness.governance.checks import RULES, contradictions
from harness.governance.document import parse
from harness.governance.documents import BY_NAME, KINDS, facts, read_all
from harness.governance.rules import GATES, Gate, NotRead, reached

Do = Callable[[Any], Any]


class Pilot:
    """A folder with every document filled in."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for path, text in {
            **filled(),
            "pilot.toml": TOML,
            "tests/test_water.py": "",
            "docs/more.md": "",
        }.items():
            self.write(path, text)

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def change(self, name: str, do: Do) -> None:
        path = BY_NAME[name].path
        text = (self.root / path).read_text(encoding="utf-8")
        if not path.endswith(".md"):
            values = parse(text)
            do(values)
            # Copied, so that nothing is written as an alias of something else, which the reader refuses.
            self.write(path, written(json.loads(json.dumps(values))))
            return
        _, front, body = text.split("---\n", 2)
        values = parse(front)
        do(values)
        self.write(path, f"---\n{written(values)}---\n{body}")

    def found(self, gate: Gate) -> dict[str, list[str]]:
        """What the rules that hold at a gate find."""
        documents, findings = read_all(self.root)
        assert findings == []
        told: dict[str, list[str]] = {}
        for rule in RULES:
            if reached(rule.gate, gate):
                for one in rule.ask(documents):
                    told.setdefault(rule.id, []).append(f"{one.field}: {one.what}. {one.mend or rule.mend}")
        return told


TOML = '[pilot]\nrisk_tier = "limited"\n[sources.probes]\nkind = "csv"\n[sources.weather]\nkind = "csv"\n'


@pytest.fixture
def pilot(tmp_path: Path) -> Pilot:
    return Pilot(tmp_path)


def updated(*path: str | int, **changes: Any) -> Do:
    """A change of some keys deep in a document; None takes one away."""

    def do(values: Any) -> None:
        for part in path:
            values = values[part]
        for name, value in changes.items():
            if value is None:
                del values[name]
            else:
                values[name] = value

    return do


def same_person(values: Any) -> None:
    values["on_call"]["secondary"] = values["on_call"]["primary"].upper()


DAY = timedelta(days=1)
EXCUSED = {"not_applicable": {"reason": "nobody is concerned", "approver": "nobody"}}
TRANSPARENT = updated("eu_ai_act", risk_class="limited")


def excused_notice(values: Any) -> None:
    TRANSPARENT(values)
    values["notice"] = {"not_applicable": {"reason": "nobody asked", "approver": "risk"}}


# The rule, where the fault is planted, the fault, and what is told.
PLANTED: tuple[tuple[str, str, Do, str], ...] = (
    ("system.target", "system", updated("value", target="0.4"), "the target is what there is today"),
    ("system.allowed", "system", updated("eu_ai_act", risk_class="prohibited"), "a prohibited practice"),
    ("system.high_risk", "system", updated("eu_ai_act", risk_class="high"), "eu_ai_act.basis: it is missing"),
    ("system.high_risk", "system", updated("eu_ai_act", risk_class="high"), 'Write risk_tier = "high"'),
    (
        "system.high_risk",
        "system",
        updated("eu_ai_act", risk_class="high", basis="annex_iii", point="4a", ready_by="2027-12-03"),
        "the duties hold from 2027-12-02 on",
    ),
    (
        "system.high_risk",
        "system",
        updated("eu_ai_act", risk_class="high", basis="annex_i", point="1", ready_by="2028-08-03"),
        "the duties hold from 2028-08-02 on",
    ),
    ("system.notice", "system", excused_notice, "people must be told (Article 50)"),
    ("owners.roles", "owners", updated("roles", risk=None), "the role 'risk' is missing"),
    ("owners.roles", "owners", updated("decisions", "early", decider="business and risk"), "is no role"),
    ("owners.roles", "owners", updated("decisions", "early", signs=["lawyer"]), "'lawyer' is no role"),
    ("owners.roles", "owners", updated("escalation", 1, call="somebody"), "escalation.1.call: 'somebody'"),
    ("owners.gates", "owners", updated("decisions", broad=None), "nobody decides on the gate 'broad'"),
    ("owners.escalation", "owners", updated("escalation", 2, after_minutes="30"), "comes after 30 minutes"),
    ("owners.escalation", "owners", updated(escalation=[]), "fewer than two steps"),
    ("owners.on_call", "owners", same_person, "the same"),
    ("owners.two_years", "owners", lambda v: v["tenure"].pop(1), f"nobody is named for {TODAY.year + 1}"),
    ("owners.three_years", "owners", lambda v: v["tenure"].pop(2), f"nobody is named for {TODAY.year + 2}"),
    ("stakeholders.groups", "stakeholders", lambda v: v["groups"].pop(), "names 2 different groups"),
    ("stakeholders.groups", "stakeholders", lambda v: v["groups"][2].update(v["groups"][1]), "2 different"),
    ("stakeholders.losers", "stakeholders", updated("groups", 0, loses=None), "no group loses anything"),
    ("stakeholders.target", "stakeholders", updated("adoption", target_share="60"), "60 is no share"),
    ("stakeholders.target", "stakeholders", updated("adoption", target_share="nan"), "nan is no share"),
    ("stakeholders.review", "stakeholders", updated("review", held_on=str(TODAY - 181 * DAY)), "not within"),
    ("stakeholders.review", "stakeholders", updated("review", held_on=str(TODAY + DAY)), "is not within"),
    ("stakeholders.review", "stakeholders", updated("review", present=["risk"]), "owner was not there"),
    ("integrations.sources", "integrations", updated("upstream", probes=None), "'probes' of pilot.toml"),
    (
        "integrations.sources",
        "integrations",
        lambda v: v["upstream"].update(gauges=v["upstream"]["probes"]),
        "pilot.toml has no source 'gauges'",
    ),
    ("integrations.sides", "integrations", updated(downstream={}), "downstream: nothing is listed"),
    ("tco.total", "tco", updated("production", total="160001"), "the lines make 160002.00, not 160001"),
    ("tco.amounts", "tco", updated(pilot_cost="0"), "pilot_cost: 0 is not above zero"),
    ("tco.amounts", "tco", updated("funding", 0, amount="-1"), "funding.0.amount: -1 is not above zero"),
    ("tco.split", "tco", updated("split", change="30"), "the parts make 110, not 100"),
    ("tco.usual_split", "tco", updated("split", change="30", modelling="10"), "differs from 40/20/20/20"),
    ("tco.growth", "tco", updated(pilot_cost="12000"), "less than 15 times the pilot"),
    ("tco.funded", "tco", updated("funding", 1, amount="160000"), f"{TODAY.year + 1}: less is granted"),
    ("tco.funded", "tco", updated(horizon_years="4"), f"{TODAY.year + 3}: less is granted"),
    ("risks.named", "risks", updated(risks=[]), "no risk is named"),
    ("risks.named", "risks", updated(assumptions=[]), "no assumption is named"),
    ("risks.accepted", "risks", updated("risks", 0, accepted=None), "a high risk that nobody accepted"),
    ("risks.accepted", "risks", updated("risks", 0, "accepted", role="the boss"), "the role 'the boss'"),
    ("risks.evidence", "risks", updated("risks", 0, evidence="tests/none.py"), "there is no file"),
    ("risks.evidence", "risks", updated("risks", 0, evidence="../../../etc/passwd"), "there is no file"),
    ("risks.checks", "risks", updated("assumptions", 0, check="hope"), "'hope' is neither a signal"),
    ("rollout.order", "rollout", updated("stages", "early", percent="60"), "50 is not above the 60 of early"),
    ("rollout.order", "rollout", updated("stages", "shadow", percent="5"), "in shadow the model decides"),
    ("rollout.order", "rollout", updated("stages", "full", percent="90"), "full means 100"),
    ("rollout.signals", "rollout", updated("stages", "early", "leave", quiet=["hunch"]), "no signal 'hunch'"),
    ("rollout.guardrails", "rollout", updated("guardrails", 1, name="errors"), "'errors' is declared twice"),
    ("rollout.guardrails", "rollout", updated("guardrails", 4, signal="hunch"), "no signal 'hunch'"),
    (
        "rollout.measured",
        "rollout",
        lambda v: v.update(guardrails=[one for one in v["guardrails"] if one["measure"] != "loss"]),
        "none watches how good its decisions are",
    ),
    (
        "rollout.of_shadow",
        "rollout",
        updated("stages", "broad", "leave", agreement="0.9"),
        "stages.broad.leave.agreement: it says something to the stage shadow only",
    ),
    ("rollout.minima", "rollout", updated("stages", "shadow", "leave", days="0"), "leave.days: 0 is below 1"),
    ("rollout.minima", "rollout", updated("stages", "shadow", "leave", decisions="999"), "is below 1,000"),
    ("rollout.minima", "rollout", updated("stages", "broad", "leave", quiet=[]), "no signal has to be quiet"),
    ("runbook.drilled", "runbook", updated(last_drill=str(TODAY - 181 * DAY)), "is not within the last 180"),
    ("monitoring.runbook", "monitoring", updated("signals", 0, runbook="nowhere"), "no section 'nowhere'"),
    ("monitoring.owners", "monitoring", updated("signals", 0, owner="somebody"), "'somebody' is no role"),
    (
        "monitoring.watched",
        "monitoring",
        lambda v: v.update(signals=[one for one in v["signals"] if one["category"] != "data_quality"]),
        "no signal watches data quality",
    ),
    (
        "monitoring.watched_at_early",
        "monitoring",
        lambda v: v.update(signals=[one for one in v["signals"] if one["category"] != "bias"]),
        "no signal watches bias",
    ),
)
GATE = {rule.id: rule.gate for rule in RULES}


@pytest.mark.parametrize(
    ("rule", "name", "do", "told"), PLANTED, ids=[f"{rule}-{told[:24]}" for rule, _, _, told in PLANTED]
)
def test_the_fault_is_found_from_its_gate_on(pilot: Pilot, rule: str, name: str, do: Do, told: str) -> None:
    assert pilot.found("full") == {}
    pilot.change(name, do)
    for gate in GATES:
        found = pilot.found(gate).get(rule, [])
        assert any(told in line for line in found) is reached(GATE[rule], gate), (gate, found)
        assert all(line.endswith(".") for line in found)


def test_each_document_is_held_to_its_own_rules_here() -> None:
    own = {rule.id for kind in KINDS for rule in kind.rules}
    assert own == {rule for rule, _, _, _ in PLANTED}


@pytest.mark.parametrize("name", BY_NAME)
def test_what_every_document_is_held_to(pilot: Pilot, name: str) -> None:
    pilot.change(name, updated(owner="somebody"))
    assert pilot.found("pilot") == {
        f"{name}.owned": ["owner: 'somebody' is no role of owners.yaml. Name one of its roles."]
    }
    pilot.change(name, updated(owner="risk", review_by=str(TODAY - DAY), last_reviewed=str(TODAY - 9 * DAY)))
    [line] = pilot.found("shadow")[f"{name}.reviewed"]
    assert f"the review was due on {TODAY - DAY}" in line
    assert pilot.found("pilot") == {}, "time alone makes no commit fail"
    pilot.change(name, updated(review_by=str(TODAY + 400 * DAY)))
    assert "more than a year after" in pilot.found("shadow")[f"{name}.reviewed"][0]
    pilot.change(name, updated(review_by=str(SOON), last_reviewed=str(TODAY + DAY)))
    assert "has not come yet" in pilot.found("shadow")[f"{name}.reviewed"][0]
    pilot.change(name, updated(last_reviewed="TODO"))
    assert pilot.found("pilot") == {}
    assert pilot.found("shadow") == {f"{name}.filled": ["last_reviewed: still TODO. Fill it in."]}


@pytest.mark.parametrize(
    ("name", "path", "gate"),
    [
        ("system", ("notice", "text"), "early"),
        ("system", ("retirement", "when"), "broad"),
        ("owners", ("on_call", "secondary"), "early"),
        ("stakeholders", ("feedback", "channel"), "early"),
        ("integrations", ("suppliers", "somebody", "fallback"), "early"),
        ("tco", ("funding", 0, "granted_by"), "broad"),
        ("runbook", ("last_drill",), "early"),
    ],
)
def test_some_answers_can_wait(pilot: Pilot, name: str, path: tuple[str | int, ...], gate: Gate) -> None:
    pilot.change(name, updated(*path[:-1], **{str(path[-1]): "TODO"}))
    before = GATES[GATES.index(gate) - 1]
    field = ".".join(map(str, path))
    assert pilot.found(before) == {}
    assert pilot.found(gate)[f"{name}.filled_at_{gate}"] == [f"{field}: still TODO. Fill it in."]


@pytest.mark.parametrize(("name", "heading"), [("model-card", "Limits"), ("runbook", "Roll back")])
def test_a_section_with_a_sentinel_or_nothing_in_it_is_open(pilot: Pilot, name: str, heading: str) -> None:
    path = BY_NAME[name].path
    text = (pilot.root / path).read_text(encoding="utf-8")
    for nothing in ("", "Half of it. TODO the rest"):
        assert f"## {heading}\n\nAll is said." in text
        pilot.write(path, text.replace(f"## {heading}\n\nAll is said.", f"## {heading}\n\n{nothing}"))
        assert pilot.found("shadow") == {f"{name}.filled": [f"“{heading}”: still TODO. Fill it in."]}


def test_what_does_not_apply_needs_somebody_who_agreed(pilot: Pilot) -> None:
    pilot.change("system", updated(notice=EXCUSED))
    [line] = pilot.found("shadow")["system.excused"]
    assert line.startswith("notice.not_applicable.approver: nobody holds the role 'nobody'")
    agreed = {"not_applicable": {"reason": "nobody is concerned", "approver": "risk"}}
    pilot.change("system", updated(notice=agreed, impact=agreed, oversight=agreed))
    assert pilot.found("full") == {}


def test_at_high_risk_impact_and_oversight_always_apply(pilot: Pilot) -> None:
    pilot.write("pilot.toml", TOML.replace("limited", "high"))
    agreed = {"not_applicable": {"reason": "nobody is concerned", "approver": "risk"}}
    pilot.change("system", updated(notice=agreed, impact=agreed, oversight=agreed))
    assert pilot.found("shadow") == {
        "system.excused": [
            "impact: at high risk it always applies. Fill it in.",
            "oversight: at high risk it always applies. Fill it in.",
        ]
    }


def test_what_is_given_lifts_what_it_is_given_for(pilot: Pilot) -> None:
    high = {"risk_class": "high", "basis": "annex_iii", "point": "4a", "ready_by": "2027-12-01"}
    pilot.write("pilot.toml", TOML.replace("limited", "high"))
    pilot.change("system", updated("eu_ai_act", **high))
    pilot.change("tco", updated("split", change="30", modelling="10"))
    pilot.change("tco", updated(split_reason="half of the users are new", pilot_cost="90000"))
    pilot.change("tco", updated(reference="docs/more.md"))
    pilot.change("stakeholders", updated("groups", 0, loses=None))
    pilot.change("stakeholders", updated(nobody_loses="it replaces a list that nobody kept"))
    assert pilot.found("full") == {}


def test_a_rule_without_its_document_does_not_pass_for_one_that_holds(pilot: Pilot) -> None:
    pilot.write("governance/owners.yaml", "owner: [")
    documents, findings = read_all(pilot.root)
    assert [each.file for each in findings] == ["governance/owners.yaml"]
    with pytest.raises(NotRead):
        list(next(rule for rule in RULES if rule.id == "risks.accepted").ask(documents))
    assert contradictions(documents) == []


def test_a_pilot_toml_that_cannot_be_read_is_told(pilot: Pilot) -> None:
    for text in ("[pilot\n", "[pilot]\nname = 'x'\n", "sources = 4\n[pilot]\nrisk_tier = 'high'\n"):
        pilot.write("pilot.toml", text)
        with pytest.raises(PilotError, match="the sources and the risk tier cannot be read"):
            facts(pilot.root)
