"""One simulation, from the declaration to filled systems."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import duckdb

from harness.errors import PilotError
from harness.settings import NO_DOWNLOADS
from harness.simulate.deliver import Delivery, Folder, Postgres, Target, opened
from harness.simulate.digest import Fingerprint, quoted
from harness.simulate.manifest import Manifest
from harness.simulate.mess import untidy
from harness.simulate.parameters import Parameters
from harness.simulate.spec import Specification, read_specification
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
    try:
        return _simulated(specification, parameters, targets, progress, spec_file, memory)
    except RuntimeError as error:
        # What DuckDB makes of Ctrl-C; a caller waits for the usual thing.
        if str(error) == "Query interrupted":
            raise KeyboardInterrupt from error
        raise


def _simulated(
    specification: Specification,
    parameters: Parameters,
    targets: Mapping[str, Target],
    progress: Progress,
    spec_file: Path,
    memory: str,
) -> Manifest:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="simulate-")))
        connection = stack.enter_context(duckdb.connect(str(folder / "world.duckdb"), config=NO_DOWNLOADS))
        connection.execute("set memory_limit = ?", [memory])
        connection.execute("set temp_directory = ?", [str(folder / "spill")])
        systems = {
            name: stack.enter_context(opened(targets[name], name, folder)) for name in specification.systems()
        }
        world = World(specification, parameters, spec_file, connection)
        filled = _fill(world, specification, parameters, systems, spec_file, progress)
        # Databases last: a rename hardly fails, and a commit can.
        for system in sorted(systems.values(), key=lambda system: isinstance(system, Postgres)):
            system.commit()
    return Manifest(parameters=parameters, tables=filled)


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
