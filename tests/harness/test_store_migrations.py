"""A store of an earlier version becomes one of this one, whole or not at all; a later one is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from delivering import MADE
from harness.store import Database, DecisionStore, Outbox, StoreUnavailable, migrations, put
from harness.store.database import HEAD, metadata, revision, version

Start = Callable[..., subprocess.Popen[str]]
STORES = Path(__file__).parent / "stores"
OPEN = """
import sys
from harness.store import Database

sys.stdin.readline()
Database(sys.argv[1]).close()
print("alembic" in sys.modules)
"""
OLD_COLUMNS = [name for name in asdict(MADE) if name not in ("reasons_pending", "idempotency_key")]


def engine(url: str) -> sa.Engine:
    return Database(url, upgrade=False).engine


def run(url: str, *statements: str) -> None:
    opened = engine(url)
    with opened.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    opened.dispose()


def made_before_revisions(url: str, name: str = "d-0") -> None:
    """A store as the code before revisions made it, with a decision that waits."""
    dialect = sa.make_url(url).get_backend_name()
    ddl = (STORES / f"{dialect}_0001.sql").read_text()
    run(url, *(each for each in ddl.split(";\n") if each.strip()))
    row = asdict(replace(MADE, decision_id=name))
    values = {
        column: json.dumps(row[column]) if column in ("record", "decision", "reasons") else row[column]
        for column in OLD_COLUMNS
    }
    waiting = {
        "decision_id": name,
        "entity": MADE.entity,
        "queued_at": MADE.decided_at,
        "state": "waiting",
        "attempts": 0,
    }
    opened = engine(url)
    with opened.begin() as connection:
        for table, row in (("decisions", values), ("outbox", waiting)):
            written = sa.table(table, *(sa.column(column) for column in row))
            connection.execute(written.insert().values(row))
    opened.dispose()


def shape(url: str) -> dict[str, Any]:
    """Everything that the database says of its tables."""
    opened = engine(url)
    looked = sa.inspect(opened)
    found = {
        table: (
            {
                column["name"]: (str(column["type"]), column["nullable"])
                for column in looked.get_columns(table)
            },
            sorted(_told(index) for index in looked.get_indexes(table)),
            looked.get_pk_constraint(table)["constrained_columns"],
            sorted(each["column_names"] for each in looked.get_unique_constraints(table)),
        )
        for table in looked.get_table_names()
    }
    opened.dispose()
    return found


def _told(index: Any) -> str:
    where = {name: str(value) for name, value in index.get("dialect_options", {}).items()}
    return str((index["name"], index["column_names"], bool(index["unique"]), where))


def at(url: str) -> str | None:
    opened = engine(url)
    with opened.connect() as connection:
        found = revision(connection)
    opened.dispose()
    return found


def another(url: str, tmp_path: Path) -> str:
    """A second, empty store beside."""
    if url.startswith("sqlite"):
        return f"sqlite:///{tmp_path}/another.db"
    run(url, "DROP SCHEMA IF EXISTS another CASCADE", "CREATE SCHEMA another")
    return url.split("&options")[0] + "&options=-csearch_path%3Danother"


def test_the_steps_lead_to_what_a_new_store_is_made_as(store_url: str, tmp_path: Path) -> None:
    fresh = another(store_url, tmp_path)
    Database(fresh).close()
    made_before_revisions(store_url)
    Database(store_url).close()
    assert shape(store_url) == shape(fresh)
    assert at(store_url) == at(fresh) == HEAD
    assert migrations.revisions()[-1].number == HEAD
    assert set(shape(fresh)) == {*metadata.tables, version.name}


def test_a_store_without_a_revision_is_recognised_and_keeps_what_is_in_it(store_url: str) -> None:
    made_before_revisions(store_url)
    assert at(store_url) is None
    store = DecisionStore(store_url, alongside=(put,))
    assert store.get("d-0") == MADE
    assert [each.decision_id for each in Outbox(store.database).first(5)] == ["d-0"]
    store.record(replace(MADE, decision_id="d-1"))
    assert len(Outbox(store.database).first(5)) == 2
    store.close()


def test_an_older_store_gets_the_tables_that_it_lacks(store_url: str) -> None:
    made_before_revisions(store_url)
    run(store_url, "DROP TABLE outbox", "DROP TABLE shadow")
    store = DecisionStore(store_url, alongside=(put,))
    store.record(replace(MADE, decision_id="d-1"))
    assert Outbox(store.database).waiting().count == 1
    store.close()


@pytest.mark.parametrize("old", [True, False], ids=["an older store", "no store yet"])
def test_of_several_that_start_at_once_one_changes_it(
    store_url: str, old: bool, python: Start, tmp_path: Path
) -> None:
    if old:
        made_before_revisions(store_url)
        before = shape(store_url)
    started = [python(OPEN, store_url) for _ in range(4)]
    for process in started:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    for process in started:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    assert at(store_url) == HEAD
    store = DecisionStore(store_url)
    assert (store.get("d-0") is not None) is old
    store.close()
    if old and store_url.startswith("sqlite"):  # whoever came later has kept no copy of what was changed
        (kept,) = Path(store.database.engine.url.database or "").parent.glob(f"*.before-{HEAD}*")
        assert shape(f"sqlite:///{kept}") == before


def test_a_store_that_is_up_to_date_needs_no_alembic(store_url: str, python: Start) -> None:
    for _ in range(2):  # the first makes it, which needs none either
        output, errors = python(OPEN, store_url).communicate("\n", timeout=60)
        assert output.strip() == "False", errors


def test_a_service_of_the_version_before_goes_on_beside(store_url: str) -> None:
    made_before_revisions(store_url)
    Database(store_url).close()
    columns = ", ".join(OLD_COLUMNS)
    again = ", ".join("'d-9'" if name == "decision_id" else name for name in OLD_COLUMNS)
    run(store_url, f"INSERT INTO decisions ({columns}) SELECT {again} FROM decisions")
    store = DecisionStore(store_url)
    assert store.get("d-9") == replace(MADE, decision_id="d-9")
    assert store.pending(5) == []
    store.close()


def test_a_store_of_a_later_version_is_refused_and_not_touched(store_url: str) -> None:
    Database(store_url).close()
    run(store_url, f"UPDATE {version.name} SET version_num = '9999'")
    before = shape(store_url)
    with pytest.raises(StoreUnavailable, match=r"a later version \(revision 9999\) than this code") as told:
        DecisionStore(store_url)
    assert "a later one" in told.value.mend
    assert shape(store_url) == before
    assert at(store_url) == "9999"


def test_a_table_of_somebody_elses_is_refused_and_not_touched(store_url: str) -> None:
    run(store_url, "CREATE TABLE decisions (id integer primary key, minutes text)")
    before = shape(store_url)
    with pytest.raises(StoreUnavailable, match="not this store's"):
        DecisionStore(store_url)
    assert shape(store_url) == before


def test_a_step_that_fails_half_way_leaves_the_store_as_it_was(
    store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_before_revisions(store_url)
    before = shape(store_url)
    steps = tmp_path / "revisions"
    shutil.copytree(migrations.FOLDER, steps)
    broken = sorted(steps.glob("v*.py"))[-1]
    broken.write_text(broken.read_text() + '\n    op.execute("SELECT 1 FROM nowhere")\n')
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "FOLDER", steps)
        with pytest.raises(
            StoreUnavailable, match=rf"brought to revision {HEAD}, and is as it was: .*nowhere"
        ):
            DecisionStore(store_url)
    assert shape(store_url) == before
    assert at(store_url) is None
    store = DecisionStore(store_url)
    assert store.get("d-0") == MADE
    store.close()


def test_a_copy_of_sqlites_file_is_kept_before_it_is_changed(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/decisions.db"
    made_before_revisions(url)
    before = shape(url)
    Database(url).close()
    copy = tmp_path / f"decisions.db.before-{HEAD}"
    assert shape(f"sqlite:///{copy}") == before
    restored = DecisionStore(f"sqlite:///{copy}")
    assert restored.get("d-0") == MADE
    restored.close()


def test_without_room_for_the_copy_nothing_is_changed(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/decisions.db"
    made_before_revisions(url)
    before = shape(url)
    (tmp_path / f"decisions.db.before-{HEAD}.part").mkdir()
    with pytest.raises(StoreUnavailable, match="no copy of the store could be made"):
        Database(url)
    assert shape(url) == before


def test_a_store_that_is_read_meanwhile_is_brought_up_all_the_same(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/decisions.db"
    made_before_revisions(url)
    reading = engine(url)
    with reading.connect() as connection:
        rows = connection.exec_driver_sql("SELECT decision_id FROM decisions")
        Database(url).close()
        assert [row[0] for row in rows] == ["d-0"]
    reading.dispose()
    assert at(url) == HEAD


def test_the_command_says_what_is_missing_and_brings_it(tiny: Any, pilot_here: Callable[..., Any]) -> None:
    url = tiny.settings().sqlite_url(tiny.settings().store.url)
    done = pilot_here("store", "status")
    assert (done.returncode, "there is none yet" in done.stdout) == (0, True)
    made_before_revisions(url)
    done = pilot_here("store", "status", "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["revision"], found["head"]) == (1, None, HEAD)
    assert [each["revision"] for each in found["missing"]] == [each.number for each in migrations.revisions()]
    assert all(each["brings"] for each in found["missing"])
    assert at(url) is None
    done = pilot_here("store", "upgrade", "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["before"], found["revision"]) == (0, None, HEAD)
    (copy,) = found["copies"]
    assert Path(copy).exists()
    assert pilot_here("store", "status").returncode == 0
    assert "up to date" in pilot_here("store", "upgrade").stdout
    run(url, f"UPDATE {version.name} SET version_num = '9999'")
    done = pilot_here("store", "status")
    assert (done.returncode, "later version" in done.stdout) == (1, True)
    done = pilot_here("store", "upgrade")
    assert (done.returncode, "later version" in done.stderr) == (2, True)
