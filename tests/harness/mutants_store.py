"""Mutants of the store: its revisions, keys, turns, what is given up, and several hosts."""

from __future__ import annotations

from mutants import Mutant

DATABASE, MIGRATIONS, DECISIONS = "store/database.py", "store/migrations.py", "store/decisions.py"
TURNS, OUTBOX, DELIVERER = "store/turns.py", "store/outbox.py", "serving/delivery.py"
MIGRATED, KEYS, QUEUE = "test_store_migrations.py", "test_store_keys.py", "test_store_turns.py"
FAULTS, DEAD, HOSTS = "test_store_faults.py", "test_delivery_dead.py", "test_store_hosts.py"

MUTANTS = (
    Mutant(
        "a store of a later version is used",
        MIGRATIONS,
        "    elif found not in {each.number for each in revisions()}:",
        "    elif False:",
        MIGRATED,
        "later_version",
    ),
    Mutant(
        "somebody else's table is taken for the store's",
        MIGRATIONS,
        "if not columns >= KNOWN_BY:",
        "if False:",
        MIGRATED,
        "somebody_elses",
    ),
    Mutant(
        "a change of the schema is outside the transaction",
        DATABASE,
        "    connection.isolation_level = None\n",
        "",
        MIGRATED,
        "half_way",
    ),
    Mutant(
        "no copy is kept before a change",
        MIGRATIONS,
        "                kept = _kept(file)\n",
        "                kept = None\n",
        MIGRATED,
        "copy_of_sqlites_file",
    ),
    Mutant(
        "each of several that start changes the store",
        MIGRATIONS,
        "                if found == HEAD:\n                    return",
        "                if False:\n                    return",
        MIGRATED,
        "start_at_once",
    ),
    Mutant(
        "a key is decided twice",
        DECISIONS,
        "    if taken.decision_id == wanted.decision_id:\n",
        "    if True:\n",
        KEYS,
        "same_record_get",
    ),
    Mutant(
        "a key answers for another record",
        DECISIONS,
        "if stands is None or taken.record_sha256 != _sha256(wanted.record):",
        "if stands is None:",
        KEYS,
        "another_record or one_batch",
    ),
    Mutant(
        "reasons are given twice",
        DECISIONS,
        "            .where(c.decision_id == decision_id, _pending)\n",
        "            .where(c.decision_id == decision_id)\n",
        KEYS,
        "pending_are_found",
    ),
    Mutant(
        "who comes last may go first",
        TURNS,
        "                    queue.wait(number, until)\n",
        "                    pass\n",
        QUEUE,
        "in_the_order or in_early",
    ),
    Mutant(
        "only the one before is waited for",
        TURNS,
        "_change(self._opened, _WAIT, fcntl.F_RDLCK, _FIRST, number - _FIRST)",
        "_change(self._opened, _WAIT, fcntl.F_RDLCK, number - 1, 1)",
        QUEUE,
        "in_early",
    ),
    Mutant(
        "a fork keeps its parent's turn",
        TURNS,
        "        if self._open is not None:\n            self._open.close()\n        self._start_anew()\n",
        "        self._start_anew()\n",
        QUEUE,
        "dead_parents",
    ),
    Mutant(
        "a locked table holds a decision up for good",
        DATABASE,
        '    cursor.execute(f"SET lock_timeout = {BUSY_S * 1000:.0f}")\n',
        '    cursor.execute("SET lock_timeout = 60000")\n',
        FAULTS,
        "given_up_in_time",
    ),
    Mutant(
        "a consumer that takes nothing is no reason to wait",
        DELIVERER,
        "if held is None or self._succeeded_at <= held.since or",
        "if held is None or",
        DEAD,
        "takes_nothing",
    ),
    Mutant(
        "later ones overtake what is given up",
        OUTBOX,
        ".where(_waits, wanted, ~_behind(outbox.c.entity))",
        ".where(_waits, wanted)",
        DEAD,
        "holds_its_entity",
    ),
    Mutant(
        "hosts number decisions as they come",
        DECISIONS,
        "                _hold(connection, new)\n",
        "",
        HOSTS,
        "numbered_in_the_order",
    ),
    Mutant(
        "every host delivers",
        DATABASE,
        "yield (lambda: _answers(connection)) if held else None",
        "yield lambda: _answers(connection)",
        HOSTS,
        "the_next_host",
    ),
    Mutant(
        "whose lock is gone goes on delivering",
        DATABASE,
        "    except sa.exc.SQLAlchemyError:\n        return False\n    return True\n",
        "    except sa.exc.SQLAlchemyError:\n        return True\n    return True\n",
        HOSTS,
        "the_next_host",
    ),
)
