"""The monitor on this pilot: what was held back breaches nothing, and what has changed is acted upon.

The service decides, `pilot monitor` looks, both as processes. A pilot with real sources has nothing to
simulate: this test is skipped and says so.
"""

# This file is the standard's: `copier update` replaces it. Write tests of your own in tests/integration/.
from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.control import read_audit
from harness.governance.monitoring import FILE
from harness.pipeline.reference import Reference, load_reference
from harness.testing import PilotCopy, Service

Serve = Callable[..., Service]
Record = dict[str, Any]
DECISIONS = 120
SIGNAL = """
owner: model
last_reviewed: TODO
review_by: TODO
signals:
  - id: input-drift
    category: drift
    measure: psi
    over: [{field}]
    threshold: 0.2
    min_samples: 100
    action: hold
    runbook: input-drift
"""


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    """The decisions of this test are in a store of its own."""
    return {"PILOT_STORE__URL": f"sqlite:///{tmp_path}/decisions.db"}


@pytest.fixture
def declare(pilot_copy: PilotCopy) -> Iterator[Callable[[str], None]]:
    """Put another monitoring.yaml in force, until the test ends; what it did to the model ends then too."""
    file = pilot_copy.root / FILE
    text = file.read_text(encoding="utf-8")
    yield lambda other: _written(file, other)
    _written(file, text)
    pilot_copy.run("arm", "--reason", "the test is over")  # refused where nothing was done


def test_what_was_held_back_breaches_nothing_and_what_has_changed_is_acted_upon(
    pilot_copy: PilotCopy, serve: Serve, variables: dict[str, str], declare: Callable[[str], None]
) -> None:
    service = serve(**variables)
    records = pilot_copy.held_back(DECISIONS)
    answers = [service.decide(record) for record in records]
    before = read_audit(pilot_copy.control)
    code, found = _monitor(pilot_copy, variables)
    assert code in (0, 3), found
    assert "breached" not in {each["verdict"] for each in found["signals"]}
    assert found["models"][0]["windows"][0]["decisions"] == len(records)
    assert found["actions"] == []
    assert read_audit(pilot_copy.control) == before

    name = _field(load_reference(pilot_copy.root / "var" / "models" / answers[0]["model"]), records)
    declare(SIGNAL.format(field=name))
    always = next(record[name] for record in records if record[name] is not None)
    for record in records:
        service.decide({**record, name: always})
    code, found = _monitor(pilot_copy, variables)
    assert code == 1, found
    assert [(each["id"], each["verdict"]) for each in found["signals"]] == [("input-drift", "breached")]
    assert [(each["action"], each["taken"]) for each in found["actions"]] == [("hold", True)]
    line = read_audit(pilot_copy.control)[-1]
    assert line["action"] == "hold"
    assert line["reason"].startswith(f"monitor: input-drift: {name} ")
    assert line["revision"] == found["actions"][0]["revision"]
    assert (pilot_copy.root / "var" / "monitor" / "latest.html").exists()


def _monitor(copy: PilotCopy, variables: dict[str, str]) -> tuple[int, dict[str, Any]]:
    ended = copy.run("monitor", "--json", **variables)
    assert ended.stdout, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    return ended.code, found


def _field(reference: Reference, records: list[Record]) -> str:
    """A field whose distribution is another one when all records have the same value."""
    for name, profile in reference.fields.items():
        if max(profile.counts) < 0.7 * sum(profile.counts) and any(
            record[name] is not None for record in records
        ):
            return name
    pytest.skip("each field of this pilot has nearly always the same value, so that none can drift like this")


def _written(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")
