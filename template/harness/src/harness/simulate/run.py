"""One simulation, from the declaration to filled systems."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import duckdb

from harness.errors import PilotError
from harness.settings import NO_DOWNLOADS
from harness.simulate.deliver import Delivery, Folder, Postgres, Target, opened
from harness.simulate.digest import Fingerprint, fingerprint, quoted
from harness.simulate.manifest import Delivered, Manifest
from harness.simulate.mess import untidy
from harness.simulate.parameters import Parameters
from harness.simulate.spec import Specification, Table, read_specification
from harness.simulate.world import World

Progress = Callable[[str, float], None]


def simulate(
    spec_file: Path,
    parameters: Parameters,
    targets: Mapping[str, Target],
    progress: Progress,
    *,
    memory: str = "1500MB",
) -> Manifest:
    """Fill systems with simulated data. The caller writes the manifest, last.

    Everything is generated before anything is replaced; then the files are renamed into place and each
    database commits. After a failure before that, all systems hold what they held.

    Args:
        spec_file: The pilot's simulation.yaml.
        parameters: How much, and how untidy.
        targets: The systems to fill, by the names that the file uses.
        progress: Called with a table's name and the share of it that is done, 0 to 1.
        memory: What DuckDB may use before it writes to disk.

    Returns:
        What was filled.

    Raises:
        PilotError: The file is wrong, a system has no target or cannot be filled, or holds real data.
    """
    specification = read_specification(spec_file)
    check_targets(specification, targets, spec_file)
    return _simulated(specification, parameters, targets, progress, spec_file, memory)


def _simulated(
    specification: Specification,
    parameters: Parameters,
    targets: Mapping[str, Target],
    progress: Progress,
    spec_file: Path,
    memory: str,
) -> Manifest:
    with _workshop(specification, parameters, targets, spec_file, memory) as (world, systems):
        filled = _fill(world, specification, parameters, systems, spec_file, progress)
        # Databases last: a rename hardly fails, and a commit can.
        for system in sorted(systems.values(), key=lambda system: isinstance(system, Postgres)):
            system.commit()
    return Manifest(parameters=parameters, tables=filled)


@contextmanager
def _workshop(
    specification: Specification,
    parameters: Parameters,
    targets: Mapping[str, Target],
    spec_file: Path,
    memory: str,
) -> Iterator[tuple[World, dict[str, Postgres | Folder]]]:
    """A world, still empty, and the opened systems; both are gone at the end."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="simulate-")))
        connection = stack.enter_context(duckdb.connect(str(folder / "world.duckdb"), config=NO_DOWNLOADS))
        connection.execute("set memory_limit = ?", [memory])
        connection.execute("set temp_directory = ?", [str(folder / "spill")])
        systems = {
            name: stack.enter_context(opened(targets[name], name, folder)) for name in specification.systems()
        }
        try:
            yield World(specification, parameters, spec_file, connection), systems
        except RuntimeError as error:
            # What DuckDB makes of Ctrl-C; a caller waits for the usual thing.
            if str(error) == "Query interrupted":
                raise KeyboardInterrupt from error
            raise


def _fill(
    world: World,
    specification: Specification,
    parameters: Parameters,
    systems: Mapping[str, Postgres | Folder],
    spec_file: Path,
    progress: Progress,
) -> dict[str, Fingerprint]:
    filled: dict[str, Fingerprint] = {}
    for name in specification.tables:
        progress(name, 0.0)
        world.build(name)
        table = specification.tables[name]
        if table.system:
            rows = f"select coalesce(max(row) + 1, 0) from {quoted(name)}"
            delivery = Delivery(
                name=name,
                table=table,
                query=untidy(world, name, table, parameters),
                last_row=int(world.connection.execute(rows).fetchall()[0][0]),
                where=f"{spec_file}: tables.{name}",
            )
            filled[name] = systems[table.system].fill(
                world.connection,
                delivery,
                _from_a_tenth(progress, name),
            )
        progress(name, 1.0)
    return filled


def _from_a_tenth(progress: Progress, name: str) -> Callable[[float], None]:
    # Building the true values is about a tenth of a table's work; filling the system is the rest.
    return lambda share: progress(name, 0.1 + 0.9 * share)


def deliver_next(
    spec_file: Path,
    manifest: Path,
    targets: Mapping[str, Target],
    progress: Progress,
    *,
    memory: str = "1500MB",
) -> Manifest:
    """Have the systems go on for a week: rows are added and changed, and none is taken away.

    What the systems hold is built again from the manifest's parameters, so that chance goes on where it was.

    Args:
        spec_file: The pilot's simulation.yaml, as it was when the systems were filled.
        manifest: What they hold. The caller writes the new one, last.
        targets: The systems.
        progress: Called with what is done and the share of it, 0 to 1.
        memory: What DuckDB may use before it writes to disk.

    Raises:
        PilotError: There is no simulation, the file is wrong or has changed, or a system holds other rows.
    """
    done = Manifest.read(manifest)
    specification = read_specification(spec_file)
    check_targets(specification, targets, spec_file)
    number = len(done.deliveries) + 1
    with _workshop(specification, done.parameters, targets, spec_file, memory) as (world, systems):
        queries = _grown(world, specification, done.parameters, number, progress)
        for name, parts in queries.items():
            table = specification.tables[name]
            # Of files, what a reader makes of them was counted.
            if table.files is None and _content(world, table, parts[:-1]) != done.tables.get(name):
                raise PilotError(
                    "simulation.yaml has changed since its systems were filled, or the standard has",
                    where=f"{spec_file}: tables.{name}",
                    mend="Begin anew: `pilot simulate`.",
                )
        filled, distinct, brought = {}, {}, {}
        for name, parts in queries.items():
            table = specification.tables[name]
            progress(name, 0.5)
            query = parts[-1] if table.files is None else _whole(table, parts)
            rows = f"select coalesce(max(row) + 1, 0) from {quoted(name)}"
            last = int(world.connection.execute(rows).fetchall()[0][0])
            where = f"{spec_file}: tables.{name}"
            delivery = Delivery(name, table, query, last, where, after=done.tables[name].rows)
            written = systems[table.system].fill(world.connection, delivery, _from_a_tenth(progress, name))
            filled[name] = written if table.files else _content(world, table, parts)
            if table.files is None:
                distinct[name] = _content(world, table, parts, "distinct ")
            brought[name] = _brought(world, name, table, parts, number)
            progress(name, 1.0)
        for system in sorted(systems.values(), key=lambda system: isinstance(system, Postgres)):
            system.commit()
    return Manifest(
        parameters=done.parameters,
        tables=filled,
        first=done.first or hashlib.sha256(manifest.read_bytes()).hexdigest(),
        distinct=distinct,
        deliveries=(*done.deliveries, brought),
    )


def _grown(
    world: World, specification: Specification, parameters: Parameters, number: int, progress: Progress
) -> dict[str, list[str]]:
    """What each delivery brought of each table that a system gets, the new one last; as tables."""
    queries: dict[str, list[str]] = {name: [] for name, table in specification.tables.items() if table.system}
    for delivery in range(number + 1):
        if delivery:
            world.go_on()
        for name, table in specification.tables.items():
            progress(f"{name}, delivery {delivery}", delivery / (number + 1))
            (world.grow if delivery else world.build)(name)
            if table.system:
                # Kept, because the time and the rows that an expression sees go on.
                kept = quoted(f"{name} {delivery}")
                made = untidy(world, name, table, parameters, delivery)
                world.connection.execute(f"create table {kept} as {made}")
                queries[name].append(f"select *, {delivery} as delivered from {kept}")
    return queries


def _whole(table: Table, parts: Sequence[str]) -> str:
    """All that a system holds by then: a file is written anew, and has the last version only."""
    together = " union all by name ".join(parts)
    if table.files is None:
        return together
    return (
        f"select * from ({together}) qualify rank() over (partition by row, year order by delivered desc) = 1"
    )


def _content(world: World, table: Table, parts: Sequence[str], distinct: str = "") -> Fingerprint:
    names = list(table.delivered())
    listed = ", ".join(quoted(name) for name in names)
    return fingerprint(world.connection, f"(select {distinct}{listed} from ({_whole(table, parts)}))")


def _brought(world: World, name: str, table: Table, parts: Sequence[str], number: int) -> Delivered:
    new, earlier = parts[-1], " union all by name ".join(parts[:-1])
    late = "0"
    if table.next.by:
        by = quoted(table.next.by)
        late = f"count(*) filter (where again = 0 and {by} < (select max({by}) from ({earlier})))"
    rows, once, first, behind = world.connection.execute(
        f"select count(*), count(*) filter (where again = 0),"
        f" count(*) filter (where again = 0 and copy = 0), {late} from ({new})"
    ).fetchall()[0]
    return Delivered(rows=rows, new=first, changed=once - first, late=behind)


def check_targets(specification: Specification, targets: Mapping[str, Target], spec_file: Path) -> None:
    """Refuse a specification that fills systems which are not there or are of the other kind.

    Raises:
        PilotError: It does.
    """
    for system in specification.systems():
        if system not in targets:
            raise PilotError(
                f"the system '{system}' is not among the targets ({', '.join(targets) or 'none'})",
                where=f"{spec_file}: tables",
                mend=f"Declare [sources.{system}] in pilot.toml, or correct the name.",
            )
    for name, table in specification.tables.items():
        if table.system and table.files and targets[table.system].kind == "postgres":
            raise PilotError(
                f"the system '{table.system}' is a database and drops no files",
                where=f"{spec_file}: tables.{name}.files",
                mend="Remove 'files', or name a system of files.",
            )
