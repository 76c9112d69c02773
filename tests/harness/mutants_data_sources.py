"""Mutants of ingest: what must not be lost, doubled, mixed or taken for something else without a word."""

from __future__ import annotations

from mutants import Mutant

EXTRACT, INCREMENT, SNAPSHOT, VERSIONS = (
    "data/extract.py",
    "data/increment.py",
    "data/snapshot.py",
    "data/versions.py",
)
DATABASES, DROPS, ORIGIN = "data/databases.py", "data/filedrops.py", "data/origin.py"
STORES = "test_ingest_s3.py"
READING, POSTGRES, SOURCES = "test_ingest_increments.py", "test_ingest_postgres.py", "test_ingest_sources.py"

MUTANTS = (
    Mutant(
        "a row that is there already is taken again",
        INCREMENT,
        "WHERE k._stands AND {self._same(self._read.content)})",
        "WHERE FALSE)",
        READING,
        "adds_nothing",
    ),
    Mutant(
        "a version that was overwritten counts as there",
        INCREMENT,
        "k._stands AND ",
        "",
        READING,
        "without_a_newer_watermark",
    ),
    Mutant(
        "nothing is read again for late rows",
        EXTRACT,
        "(last.high or 0) - back",
        "(last.high or 0)",
        READING,
        "less_the_lookback",
    ),
    Mutant(
        "everything is read each time",
        EXTRACT,
        "if not self._table.incremental or not self._known:",
        "if True:",
        READING,
        "less_the_lookback",
    ),
    Mutant(
        "two truths are taken", INCREMENT, "        if truths:", "        if False:", READING, "two_truths"
    ),
    Mutant(
        "the future is taken", INCREMENT, "    if ahead:", "    if False:", READING, "would_end_all_reading"
    ),
    Mutant(
        "rows without a key are taken",
        INCREMENT,
        "    if keyless:",
        "    if False:",
        READING,
        "could_not_be_found_again and reading",
    ),
    Mutant(
        "rows without a moment are taken",
        INCREMENT,
        "    if timeless:",
        "    if False:",
        READING,
        "could_not_be_found_again and moment",
    ),
    Mutant(
        "an outage is a quiet day",
        EXTRACT,
        "if rows or not self._rows_before:",
        "if True:",
        READING,
        "empty_extract",
    ),
    Mutant(
        "a column that is gone is not missed",
        INCREMENT,
        "    if gone:",
        "    if False:",
        READING,
        "gone_renamed",
    ),
    Mutant(
        "a column of another type is taken",
        INCREMENT,
        "if columns[name] != kind:",
        "if False:",
        READING,
        "gone_renamed",
    ),
    Mutant(
        "another time zone is a change of every row",
        INCREMENT,
        "if whole and moments >= SHIFTED_MOMENTS",
        "if False and moments >= SHIFTED_MOMENTS",
        READING,
        "time_zone",
    ),
    Mutant(
        "rows that were touched at once have changed their zone",
        INCREMENT,
        "if whole and moments >= SHIFTED_MOMENTS and",
        "if",
        READING,
        "touched_at_once",
    ),
    Mutant("the oldest version counts", VERSIONS, "ibis.desc(moment)", "moment", READING, "newest_version"),
    Mutant(
        "of equal watermarks what was read first counts",
        VERSIONS,
        "ibis.desc(PART_COLUMN)",
        "PART_COLUMN",
        READING,
        "without_a_newer_watermark",
    ),
    Mutant(
        "rows of two sources become versions of each other",
        EXTRACT,
        "goes_on = bool(found) and self._goes_on(found[-1].about)",
        "goes_on = bool(found)",
        READING,
        "nothing_is_mixed",
    ),
    Mutant(
        "a part has the order of the read",
        INCREMENT,
        'f" ORDER BY {MOMENT}, {self._key}, {self._content}"',
        '""',
        READING,
        "same_bytes",
    ),
    Mutant(
        "the earlier parts of a replaced snapshot go first",
        SNAPSHOT,
        "sorted(later, reverse=True)",
        "sorted(later)",
        POSTGRES,
        "full_read_that_is_killed",
    ),
    Mutant(
        "a snapshot with a hole is read",
        SNAPSHOT,
        "if numbers != list(range(len(numbers))):",
        "if False:",
        READING,
        "damaged_or_missing",
    ),
    Mutant(
        "a part is written where it is read",
        EXTRACT,
        'beside = folder.with_name(f"{folder.name}{PART}")\n    shutil',
        "beside = folder\n    shutil",
        POSTGRES,
        "killed_at_any_moment",
    ),
    Mutant(
        "what came after a simulation is simulated",
        ORIGIN,
        "if len(kept) == 1 else None",
        "if kept else None",
        READING,
        "what_the_simulator_made",
    ),
    Mutant(
        "a session may write",
        DATABASES,
        "default_transaction_read_only = on",
        "default_transaction_read_only = off",
        POSTGRES,
        "session_cannot_write",
    ),
    Mutant(
        "only the right to insert is asked for",
        DATABASES,
        '"INSERT, UPDATE, DELETE, TRUNCATE"',
        '"INSERT"',
        POSTGRES,
        "may_write_is_asked",
    ),
    Mutant("an SQLite file is opened for writing", DATABASES, "?mode=ro", "?mode=rw", SOURCES, "sqlite_file"),
    Mutant(
        "a DuckDB file is opened for writing",
        DATABASES,
        "read_only=True",
        "read_only=False",
        SOURCES,
        "duckdb_file",
    ),
    Mutant(
        "a file that was cut off passes for one of a single column",
        DROPS,
        "if len(names) > 1 and not set(names) <= read:",
        "if False:",
        SOURCES,
        "cut_off_or_written",
    ),
    Mutant(
        "types are cast into one", DROPS, "        if mixed:", "        if False:", SOURCES, "different_types"
    ),
    Mutant(
        "a wrong credential is an empty folder",
        DROPS,
        "                        self.store.ls(folder)",
        "                        pass",
        STORES,
        "wrong_credential",
    ),
    Mutant(
        "a file of two halves is taken", DROPS, "            if changed:", "            if False:", STORES, "replaced"
    ),
    Mutant(
        "an object store needs a package that cannot be installed",
        DROPS,
        "        if S3.match(source.path):",
        "        if False:",
        STORES,
        "option_that_there_is_not",
    ),
    Mutant(
        "an account that may write passes the gate",
        "readiness/evidence.py",
        "        if tables:",
        "        if False:",
        "test_readiness_gates.py",
        "one_fault_refuses and may_write",
    ),
)
