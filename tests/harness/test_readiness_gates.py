"""A gate refuses what it should, says why, and never takes what is missing for a pass."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from governed import TODAY, Governed
from harness.control import kill
from harness.control.actions import arm
from harness.control.audit import AUDIT
from harness.control.state import State, write_state
from harness.pipeline import layout, record
from harness.readiness import Report, examine, lock
from harness.readiness.gates import EVERY


@pytest.fixture
def governed(tiny: Any, tmp_path: Path) -> Governed:
    return Governed(tiny, tmp_path / "control")


def asked(governed: Governed, **options: Any) -> Report:
    return examine(governed.settings(), **options)


def found(report: Report) -> dict[str, str]:
    return {each.check: f"{each.field}: {each.what}. {each.mend}" for each in report.missing}


def test_a_filled_pilot_is_ready_for_shadow(governed: Governed) -> None:
    report = asked(governed)
    assert report.missing == ()
    assert (report.verdict, report.exit_code, report.gate, report.stage) == ("ready", 0, "shadow", "sandbox")


def test_every_check_has_a_name_of_its_own_a_gate_and_a_mend() -> None:
    names = [each.id for each in EVERY]
    assert len(set(names)) == len(names)
    for each in EVERY:
        assert each.mend.endswith("."), each.id
        assert "." in each.id


# ---------------------------------------------------------------- one fault each
def uncommitted(governed: Governed) -> None:
    governed.write("src/dryfield/new.py", "")


def other_code(governed: Governed) -> None:
    governed.edit("src/dryfield/model.py", "hook = None", "hook = None  # not what was trained")
    governed.commit()


def other_standard(governed: Governed) -> None:
    governed.write("harness/README", "another version")
    governed.commit()


def other_data(governed: Governed) -> None:
    governed.edit("dvc.lock", "0" * 32, "2" * 32)
    governed.commit()


def edited_figures(governed: Governed) -> None:
    governed.edit(layout.METRICS.as_posix(), "true", "true ")
    governed.commit()


def edited_quality(governed: Governed) -> None:
    governed.edit(layout.QUALITY.as_posix(), '"rows": 100', '"rows": 1000')
    governed.commit()


def forged_origin(governed: Governed) -> None:
    governed.run(origin="simulated")
    governed.edit(layout.RUN.as_posix(), '"origin": "simulated"', '"origin": "real"')
    governed.settle()


def simulated(governed: Governed) -> None:
    governed.run(origin="simulated")
    governed.settle()


def a_sample(governed: Governed) -> None:
    governed.run(origin="sample")
    governed.settle()


def no_better(governed: Governed) -> None:
    said = {"model_beats_fallback": False, "compared_by": "f1", "model": {"f1": 0.4}, "fallback": {"f1": 0.5}}
    layout.write_json(governed.root / layout.METRICS, said)
    governed.lock_data()
    again(governed)


def too_many_bad(governed: Governed) -> None:
    said = {"rows": 100, "bad": 9, "bad_share": 0.09, "allowed_share": 0.5}
    layout.write_json(governed.root / layout.QUALITY, said)
    governed.lock_data()
    again(governed)


def an_account_that_may_write(governed: Governed) -> None:
    governed.ingested({"crm": {"may_write": None}, "erp": {"may_write": ["invoices", "payments"]}})
    governed.lock_data()
    again(governed)


def half_a_run(governed: Governed) -> None:
    governed.edit("dvc.lock", "data/features", "data/somewhere")
    again(governed)


def again(governed: Governed) -> None:
    """Note the run anew, and have it locked and signed: what is left is one fault."""
    from harness.pipeline.manifest import load_manifest

    record.note(governed.root, load_manifest(governed.root / layout.PACKAGE))
    governed.settle()


def nobody_vouches(governed: Governed) -> None:
    governed.edit("src/dryfield/contract.py", 'vouched_by="growers"', 'vouched_by="TODO"')
    governed.run()
    governed.settle()


def unpackaged(governed: Governed) -> None:
    next(governed.tiny.models.glob("*/model/weights.json")).write_text("{}")


def old_figures_in_the_card(governed: Governed) -> None:
    governed.edit("docs/model-card.md", "```figures\nmodel ", "```figures\nmodel 9")
    signed_as_it_is(governed)


def no_figures_in_the_card(governed: Governed) -> None:
    governed.edit("docs/model-card.md", "```figures", "```")
    signed_as_it_is(governed)


def signed_as_it_is(governed: Governed) -> None:
    """Lock without renewing the card's figures, as an edit after the lock would have it."""
    governed.commit()
    layout.write_json(
        governed.root / layout.EVIDENCE_LOCK, lock.current(governed.root).model_dump(mode="json")
    )
    digest = lock.read(governed.root)[1]
    who = [{"role": role, "name": f"{role}@example.org"} for role in ("risk",)]
    governed.sign({"role": "accountable", "name": "TODO@example.org"}, *who, evidence=digest)
    governed.change("rollout", lambda values: values["sign_offs"][0].update(name="accountable@example.org"))
    governed.commit()


def unnamed(governed: Governed) -> None:
    governed.edit("pilot.toml", 'on_call = "on-call@example.org"', 'on_call = "TODO"')
    governed.settle()


def inside(governed: Governed) -> None:
    governed.edit("pilot.toml", str(governed.control), "var/control")
    governed.settle()


def stopped(governed: Governed) -> None:
    kill(governed.control, reason="too wet")


def latched(governed: Governed) -> None:
    state(governed, latched=True)


def held(governed: Governed) -> None:
    state(governed, held=True)


def edited_audit(governed: Governed) -> None:
    state(governed)
    kill(governed.control, reason="a drill")
    arm(governed.control, reason="over")
    file = governed.control / AUDIT
    file.write_text(file.read_text().replace("a drill", "nothing"))


def no_audit(governed: Governed) -> None:
    state(governed)


def state(governed: Governed, **changes: Any) -> None:
    values = {"rev": 3, "stage": "sandbox", "flag_key": "dryfield", "actor": "a test", "reason": "a test"}
    values |= {"changed_at": "2026-01-01T00:00:00+00:00", **changes}
    governed.control.mkdir(parents=True, exist_ok=True)
    write_state(governed.control, State(**values))


def unlocked(governed: Governed) -> None:
    (governed.root / layout.EVIDENCE_LOCK).unlink()
    governed.commit()


def a_document_changed(governed: Governed) -> None:
    governed.edit("governance/tco.yaml", "currency: EUR", "currency: USD")
    governed.commit()


def unsigned(governed: Governed) -> None:
    governed.change("rollout", lambda values: values.update(sign_offs=values["sign_offs"][:1]))
    governed.commit()


def signed_something_else(governed: Governed) -> None:
    governed.change("rollout", lambda values: values["sign_offs"][0].update(evidence="a" * 64))
    governed.commit()


def signed_by_another(governed: Governed) -> None:
    governed.change("rollout", lambda values: values["sign_offs"][0].update(name="somebody@example.org"))
    governed.commit()


def signed_before(governed: Governed) -> None:
    early = str(TODAY - timedelta(days=1))
    governed.change("rollout", lambda values: values["sign_offs"][0].update(on=early))
    governed.commit()


def signed_tomorrow(governed: Governed) -> None:
    late = str(TODAY + timedelta(days=2))
    governed.change("rollout", lambda values: values["sign_offs"][0].update(on=late))
    governed.commit()


def the_trainer_signs(governed: Governed) -> None:
    governed.change("owners", lambda values: values["roles"].update(risk="trainer@example.org"))
    governed.settle()


def the_model_role_signs(governed: Governed) -> None:
    governed.change("owners", lambda values: values["roles"].update(risk=values["roles"]["model"]))
    governed.settle()


def a_placeholder(governed: Governed) -> None:
    governed.change("system", lambda values: values["value"].update(kpi="TODO"))
    governed.settle()


FAULTS: dict[Callable[[Governed], None], tuple[str, str]] = {
    uncommitted: ("evidence.committed", "not committed: src/dryfield/new.py"),
    other_code: ("evidence.code", "other code: src/ has changed since"),
    other_standard: ("evidence.code", "other code: harness/ has changed since"),
    other_data: ("evidence.data", "other data: dvc.lock has changed since"),
    edited_figures: ("evidence.data", "evidence/metrics.json: it is not what the stage wrote"),
    edited_quality: ("evidence.data", "evidence/quality.json: it is not what the stage wrote"),
    forged_origin: ("model.real_data", "its origin is not what ingest found"),
    simulated: ("model.real_data", "trained on simulated data"),
    a_sample: ("model.real_data", "trained on sample data"),
    no_better: ("model.beats_fallback", "f1: model 0.4, fallback 0.5"),
    too_many_bad: ("data.quality", "9.0% of 100 records break the contract"),
    an_account_that_may_write: ("data.read_only", "account of erp may write in invoices, payments"),
    half_a_run: ("evidence.run", "no stage has made data/features"),
    nobody_vouches: ("data.vouched", "nobody vouches for reading, plot"),
    unpackaged: ("model.packaged", "a file of the packaged model is changed"),
    old_figures_in_the_card: ("model.figures", "its figures are not those of the evidence"),
    no_figures_in_the_card: ("model.figures", "no block ```figures"),
    unnamed: ("control.named", "pilot.toml [pilot] on_call: still TODO"),
    inside: ("control.outside", "it lies in the work tree"),
    stopped: ("control.free", "the file KILL is there"),
    latched: ("control.free", "the model is stopped (a test: a test)"),
    held: ("control.free", "promotions are held (a test: a test)"),
    edited_audit: ("control.audited", "was changed after it was written"),
    no_audit: ("control.audited", "no line says how it came about"),
    unlocked: ("signatures.locked", "the evidence lock is missing"),
    a_document_changed: ("signatures.locked", "changed since: governance/tco.yaml"),
    unsigned: ("signatures.signed", "the role 'risk' (risk@example.org) has not signed"),
    signed_something_else: ("signatures.signed", "signed something else than what is there now"),
    signed_by_another: ("signatures.signed", "holds the role, and somebody@example.org signed"),
    signed_before: ("signatures.signed", "and the lock is of"),
    signed_tomorrow: ("signatures.signed", "and the lock is of"),
    the_trainer_signs: ("signatures.not_trainer", "trainer@example.org trained the model and signed"),
    the_model_role_signs: ("signatures.not_trainer", "model@example.org trained the model and signed"),
    a_placeholder: ("system.filled", "value.kpi: still TODO"),
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_one_fault_refuses(governed: Governed, fault: Callable[[Governed], None]) -> None:
    check, told = FAULTS[fault]
    fault(governed)
    report = asked(governed)
    assert report.exit_code == 1
    assert told in found(report)[check]


@pytest.mark.parametrize(
    "fault",
    [
        simulated,
        a_sample,
        no_better,
        too_many_bad,
        half_a_run,
        nobody_vouches,
        the_trainer_signs,
        a_placeholder,
    ],
    ids=lambda fault: fault.__name__,
)
def test_a_fault_that_was_signed_is_refused_for_itself_alone(
    governed: Governed, fault: Callable[[Governed], None]
) -> None:
    fault(governed)
    assert set(found(asked(governed))) == {FAULTS[fault][0]}


def test_every_check_beside_the_documents_is_inverted_here() -> None:
    from harness.governance.documents import BY_NAME

    own = {each.id for each in EVERY if each.id.partition(".")[0] not in BY_NAME and each.gate == "shadow"}
    assert own - {check for check, _ in FAULTS.values()} == {"evidence.fresh"}


def test_evidence_grows_old(governed: Governed) -> None:
    assert asked(governed, now=datetime.now(UTC) + timedelta(days=89)).exit_code == 0
    late = asked(governed, now=datetime.now(UTC) + timedelta(days=92))
    assert "92 days old" in found(late)["evidence.fresh"]
    early = asked(governed, now=datetime.now(UTC) - timedelta(days=1))
    assert "has not come yet" in found(early)["evidence.fresh"]
