"""What the report says of the store: the steps that a version brings are the files that it adds."""

from __future__ import annotations

from pilot_template.update.carry import Done
from pilot_template.update.decide import Kind
from pilot_template.update.report import Report, lines

FOLDER = "harness/src/harness/store/revisions"


def test_steps_of_the_store_are_named() -> None:
    done = [
        Done(f"{FOLDER}/v0003_dead_letters.py", Kind.ADDED),
        Done(f"{FOLDER}/v0002_keys.py", Kind.ADDED),
        Done(f"{FOLDER}/v0001_baseline.py", Kind.CHANGED),
        Done("harness/src/harness/store/outbox.py", Kind.ADDED),
    ]
    report = Report("0.1.0", "0.2.0", done=done)
    assert report.as_json()["migrations"] == ["0002 keys", "0003 dead letters"]
    assert "- 0003 dead letters" in lines(report)


def test_without_steps_nothing_is_said_of_the_store() -> None:
    report = Report("0.1.0", "0.2.0", done=[Done("harness/src/harness/store/outbox.py", Kind.CHANGED)])
    assert report.as_json()["migrations"] == []
    assert not any("store becomes" in line for line in lines(report))
