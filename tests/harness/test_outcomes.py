"""Outcomes: by `POST /outcomes` and from files, durable, once, and refused by name where they cannot be."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from fastapi.testclient import TestClient

from harness.control.tokens import issue
from harness.serving.app import create_app
from harness.serving.server import build_service

DECIDED = ("r-1", "r-2", "r-3")


@pytest.fixture
def client(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """The service with its door shut; three records are decided."""
    monkeypatch.setenv("PILOT_SERVING__OPEN_IN_SANDBOX", "false")
    tiny.offered()
    service = build_service(tiny.settings())
    tiny.services.append(service)
    with TestClient(create_app(service, name="dry field")) as found:
        for key in DECIDED:
            record = {**tiny.record, "reading": key}
            given = {"Authorization": f"Bearer {token(tiny, f'decides-{key}', 'decide')}"}
            assert found.post("/decide", json=record, headers=given).status_code == 200
        yield found


def token(tiny: Any, name: str, scope: str) -> str:
    return issue(tiny.control, name=name, scopes=[scope], lasts=timedelta(days=1))[0]


@pytest.fixture
def post(tiny: Any, client: TestClient) -> Callable[[Any], Any]:
    given = {"Authorization": f"Bearer {token(tiny, 'results', 'outcomes')}"}
    return lambda body: client.post("/outcomes", json=body, headers=given)


def rows(tiny: Any) -> list[tuple[Any, ...]]:
    """What is on record, read past the harness."""
    with sqlite3.connect(tiny.root / "var" / "decisions.db") as store:
        found = store.execute(
            "select record_key, outcome, known_at from outcomes order by sequence"
        ).fetchall()
    store.close()
    return found


def test_only_a_token_with_the_scope_may_say_what_came_of_it(tiny: Any, client: TestClient) -> None:
    body = {"reading": "r-1", "withered": True}
    assert client.post("/outcomes", json=body).status_code == 401
    other = {"Authorization": f"Bearer {token(tiny, 'other', 'decide')}"}
    assert client.post("/outcomes", json=body, headers=other).status_code == 403
    assert rows(tiny) == []
    given = {"Authorization": f"Bearer {token(tiny, 'results', 'outcomes')}"}
    answer = client.post("/outcomes", json=body, headers=given)
    assert (answer.status_code, answer.json()) == (
        200,
        {"received": 1, "added": 1, "unchanged": 0, "unknown": 0},
    )


def test_one_or_many_and_the_same_again_are_on_record_once(tiny: Any, post: Callable[[Any], Any]) -> None:
    many = [{"reading": "r-1", "withered": True}, {"reading": "r-9", "withered": False}]
    assert post(many).json() == {"received": 2, "added": 2, "unchanged": 0, "unknown": 1}
    assert post(many).json() == {"received": 2, "added": 0, "unchanged": 2, "unknown": 1}
    moment = "2026-03-11T08:00:00+01:00"
    assert post({"reading": "r-1", "withered": False, "known_at": moment}).json()["added"] == 1
    assert rows(tiny) == [
        ("r-1", "true", None),
        ("r-9", "false", None),
        ("r-1", "false", "2026-03-11T07:00:00.000000+00:00"),
    ]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"reading": "r-1", "withered": "yes"}, "withered"),
        ({"reading": "r-1", "withered": 1}, "withered"),
        ({"reading": "r-1", "withered": None}, "withered"),
        ({"reading": "r-1"}, "withered"),
        ({"withered": True}, "reading"),
        ({"reading": "  ", "withered": True}, "reading"),
        ({"reading": "r-1", "withered": True, "wilted": True}, "wilted"),
        ({"reading": "r-1", "withered": True, "known_at": "yesterday"}, "known_at"),
        ({"reading": "r-1", "withered": True, "known_at": "2026-03-11T08:00:00"}, "known_at"),
    ],
)
def test_what_cannot_be_taken_is_refused_by_field_and_all_of_it(
    tiny: Any, post: Callable[[Any], Any], body: dict[str, Any], field: str
) -> None:
    answer = post([{"reading": "r-2", "withered": True}, body])
    assert answer.status_code == 422
    assert f"{field}" in json.dumps(answer.json())
    assert rows(tiny) == []


@pytest.mark.parametrize("body", [[], [None], "r-1", 5])
def test_a_body_that_holds_no_outcome_is_refused(tiny: Any, post: Callable[[Any], Any], body: Any) -> None:
    assert post(body).status_code == 422
    assert rows(tiny) == []


def test_no_key_and_no_outcome_is_logged(
    tiny: Any, post: Callable[[Any], Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="harness")
    caplog.clear()
    post([{"reading": "r-secret", "withered": True}])
    post([{"reading": "r-secret", "withered": "perhaps-so"}])
    assert "r-secret" not in caplog.text
    assert "perhaps-so" not in caplog.text


def test_what_was_answered_for_survives_a_service_that_is_killed(
    tiny: Any, served: Callable[..., Any]
) -> None:
    import httpx

    tiny.offered()
    running = served()
    given = {"Authorization": f"Bearer {token(tiny, 'results', 'outcomes')}"}
    body = [{"reading": f"r-{number}", "withered": True} for number in range(50)]
    answer = httpx.post(f"{running.url}/outcomes", json=body, headers=given, trust_env=False)
    running.process.kill()
    running.process.wait()
    assert answer.json()["added"] == 50
    assert len(rows(tiny)) == 50


# ---------------------------------------------------------------- files
FRAME = pl.DataFrame(
    {
        "reading": ["r-1", "r-2", "r-3", "r-4"],
        "withered": [True, False, None, True],
        "known_at": ["2026-03-11T08:00:00Z"] * 4,
        "beside": [1, 2, 3, 4],
    }
)
WRITERS: dict[str, Callable[[pl.DataFrame, Path], None]] = {
    "csv": lambda frame, file: frame.write_csv(file),
    "jsonl": lambda frame, file: frame.write_ndjson(file),
    "parquet": lambda frame, file: frame.write_parquet(file),
}


def given(tiny: Any, pilot_command: Any, file: Path) -> tuple[int, dict[str, Any]]:
    done = pilot_command("outcomes", str(file), "--json")
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout) if done.stdout else {"error": done.stderr}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_of_each_kind_is_taken_and_twice_is_once(
    tiny: Any, client: TestClient, pilot_command: Any, kind: str
) -> None:
    file = tiny.root / f"outcomes.{kind}"
    WRITERS[kind](FRAME, file)
    code, found = given(tiny, pilot_command, file)
    assert code == 0
    counts = {name: found[name] for name in ("rows", "added", "unchanged", "unknown", "pending", "refused")}
    assert counts == {"rows": 4, "added": 3, "unchanged": 0, "unknown": 1, "pending": 1, "refused": {}}
    before = rows(tiny)
    assert [row[:2] for row in before] == [("r-1", "true"), ("r-2", "false"), ("r-4", "true")]
    code, found = given(tiny, pilot_command, file)
    assert (code, found["added"], found["unchanged"]) == (0, 0, 3)
    assert rows(tiny) == before


def test_an_old_file_given_again_does_not_undo_a_correction(
    tiny: Any, post: Callable[[Any], Any], pilot_command: Any
) -> None:
    file = tiny.root / "outcomes.csv"
    file.write_text("reading,withered\nr-1,true\n")
    given(tiny, pilot_command, file)
    post({"reading": "r-1", "withered": False})
    assert given(tiny, pilot_command, file)[1]["added"] == 0
    assert rows(tiny)[-1][:2] == ("r-1", "false")


REFUSED = {
    "csv": (
        "reading,withered\nr-1,true\nr-2,perhaps\nr-3\n,1\nr-3,0\n",
        [2, 3, 4],
        ("withered: ", "the row has too many or too few columns", "reading: "),
    ),
    "jsonl": (
        '{"reading": "r-1", "withered": true}\n{"reading": "r-2", "withered": "yes"}\n{"reading"\n[1]\n'
        '{"reading": "r-3", "withered": NaN}\n{"reading": "r-3", "withered": false}\n',
        [2, 3, 4, 5],
        ("withered: ", "the line is not JSON", "the line is no JSON object", "withered: "),
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_rows_that_cannot_be_taken_are_counted_and_named_and_the_rest_is_on_record(
    tiny: Any, client: TestClient, pilot_command: Any, kind: str
) -> None:
    text, numbers, reasons = REFUSED[kind]
    file = tiny.root / f"outcomes.{kind}"
    file.write_text(text)
    code, found = given(tiny, pilot_command, file)
    assert code == 1
    assert [each["row"] for each in found["refused_rows"]] == numbers
    for each, reason in zip(found["refused_rows"], reasons, strict=True):
        assert each["reason"].startswith(reason)
    assert sum(found["refused"].values()) == len(numbers)
    assert [row[0] for row in rows(tiny)] == ["r-1", "r-3"]
    done = pilot_command("outcomes", str(file))
    assert done.returncode == 1
    assert f"refused rows, counted from 1 without the header: {', '.join(map(str, numbers))}" in done.stderr


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("absent.csv", None, "cannot be read: No such file or directory"),
        ("outcomes.xlsx", "x", "'.xlsx' is no kind of file that outcomes are read from"),
        ("outcomes.csv", "reading,wilted\n", "there is no column 'withered'"),
        ("outcomes.csv", "", "not csv: it has no first line"),
        ("outcomes.parquet", "no parquet", "not parquet: "),
    ],
)
def test_a_file_that_is_none_is_refused_in_one_line(
    tiny: Any, pilot_command: Any, name: str, text: str | None, says: str
) -> None:
    file = tiny.root / name
    if text is not None:
        file.write_text(text)
    done = pilot_command("outcomes", str(file))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert says in done.stderr
    assert not (tiny.root / "var" / "decisions.db").exists()
