"""pytest's fixtures for the whole way, in every test of a pilot: nothing has to be imported.

| fixture | what it gives |
|---|---|
| ``pilot_copy`` | a scratch copy of this pilot, simulated and trained, one for the session |
| ``serve`` | starts ``pilot serve`` on the copy as a process; ends it after the test |
| ``consumer`` | a process that receives decisions, verifies their signatures and keeps them |
| ``held_back`` | records that were held back from training, as a caller would send them |

A pilot that reads real sources has no copy to train on: tests that ask for one are skipped, and say so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from harness.testing.consumer import Consumer
    from harness.testing.scratch import PilotCopy
    from harness.testing.service import Service

ROWS = "3000"


@pytest.fixture(scope="session")
def pilot_copy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PilotCopy:
    """A scratch copy of this pilot that has simulated sources and a trained model, shared by all tests.

    A test may stop and arm its model, issue tokens with names of its own, and run the pipeline again, as long
    as it leaves the model armed and the sources as they were.
    """
    from harness.settings import find_root, load_settings
    from harness.testing.scratch import NoRepository, scratch_copy

    root = find_root(Path(request.config.rootpath))
    settings = load_settings(root)
    if not settings.embedded:
        pytest.skip("this pilot reads real sources, and tests train on simulated ones only")
    if not (root / "simulation.yaml").exists():
        pytest.skip("without simulation.yaml there is nothing to simulate")
    try:
        made = scratch_copy(root, tmp_path_factory.mktemp("copy") / "pilot")
    except NoRepository as error:
        pytest.skip(str(error))
    made.pilot("simulate", "--rows", ROWS)
    made.pilot("run")
    return made


@pytest.fixture
def serve(pilot_copy: PilotCopy) -> Iterator[Callable[..., Service]]:
    """Start ``pilot serve`` on the copy: ``serve(token="...", PILOT_DOWNSTREAM__URL="...")``."""
    from harness.testing.service import Service

    with ExitStack() as stack:

        def start(token: str = "", **variables: str) -> Service:
            return stack.enter_context(Service(pilot_copy, token, **variables))

        yield start


@pytest.fixture
def consumer(tmp_path: Path) -> Iterator[Consumer]:
    """A process that receives decisions; ``consumer.settings`` leads a service to it."""
    from harness.testing.consumer import Consumer

    with Consumer(tmp_path) as running:
        yield running


@pytest.fixture
def held_back(pilot_copy: PilotCopy) -> Callable[[int], list[dict[str, Any]]]:
    """So many records that the pipeline held back from training: ``held_back(5)``."""
    return pilot_copy.held_back
