"""Fixtures for rendering: Copier's Python API in process, never trusted, from copies without git."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from filelock import FileLock
from jinja2 import FileSystemLoader
from jinja2.sandbox import SandboxedEnvironment

from mistakes.table import table
from rendering import ROOT, copy_template, render
from repositories import fresh, fresh_once, template_at_head

__all__ = ["fresh", "fresh_once", "template_at_head"]


def pytest_sessionstart() -> None:
    if "HARNESS_MUTANT" in os.environ:  # see hooks/mutants.py
        import pilot_template.hooks
        import pilot_template.update
        import release

        print(f"checks under test: {Path(pilot_template.hooks.__file__).parent}")
        print(f"update under test: {Path(pilot_template.update.__file__).parent}")
        print(f"release under test: {Path(release.__file__).parent}")


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory, testrun_uid: str) -> Path:
    """A folder for what is made once, by the first of the processes that share the tests."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    found = folder / f"once-{testrun_uid}"
    found.mkdir(exist_ok=True)
    return found


@pytest.fixture(scope="session")
def made_once(once: Path) -> Callable[[str, Callable[[Path], object]], Path]:
    """Make a folder once for all the processes that share the tests: ``made_once("pilot", make)``.

    Shared: nothing in it is to be changed.
    """

    def made_once(name: str, make: Callable[[Path], object]) -> Path:
        root, done = once / name, once / f"{name}.done"
        with FileLock(once / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(root, ignore_errors=True)  # of one that failed half-way
                make(root)
                done.touch()
        return root

    return made_once


@pytest.fixture(scope="session")
def whole_template(made_once: Callable[..., Path]) -> Path:
    return made_once("whole-template", copy_template)


@pytest.fixture(scope="session")
def lean_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_template(tmp_path_factory.mktemp("lean"), lean=True)


@pytest.fixture
def rendered(tmp_path: Path, lean_template: Path) -> Callable[..., Path]:
    """Render the lean template into a new folder: ``rendered(ci="none")``."""

    def rendered(**answers: Any) -> Path:
        return render(lean_template, tmp_path / f"pilot-{len(list(tmp_path.iterdir()))}", answers)

    return rendered


@pytest.fixture(scope="session")
def pilot(whole_template: Path, made_once: Callable[..., Path]) -> Path:
    """The pilot that the default answers give. Shared: read it, change nothing."""
    return made_once("default-pilot", lambda folder: render(whole_template, folder))


@pytest.fixture(scope="session")
def pilot_on(pilot: Path, whole_template: Path, made_once: Callable[..., Path]) -> Callable[[str], Path]:
    """The pilot that the default answers give on another forge: ``pilot_on("gitlab")``. Shared as well."""

    def pilot_on(ci: str) -> Path:
        if ci == "github":
            return pilot
        return made_once(f"pilot-on-{ci}", lambda folder: render(whole_template, folder, {"ci": ci}))

    return pilot_on


@pytest.fixture(scope="session")
def checks() -> Any:
    """The macros of questions/checks.jinja, as Python functions."""
    extensions = ["jinja2_ansible_filters.AnsibleCoreFiltersExtension"]
    environment = SandboxedEnvironment(loader=FileSystemLoader(ROOT), extensions=extensions)
    return environment.get_template("questions/checks.jinja").module


# What a pilot says to each mistake: `pytest tests/pilot --mistakes-table FILE` writes what the tests saw. It
# travels in the reports, because the tests may run in several processes.
TITLES: pytest.StashKey[dict[str, Path]] = pytest.StashKey()


class Said:
    """Collects what was said to each mistake, in the order in which the tests stand."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[int, Path, str, int]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            for name, value in report.user_properties:
                if name == "said":
                    title, place, file, line, code = value
                    self.found[title] = place, Path(file), line, code

    def page(self) -> str:
        inorder = sorted(self.found.items(), key=lambda each: each[1][0])
        titles = {title: file for title, (_, file, _, _) in inorder}
        return table({title: (line, code) for title, (_, _, line, code) in inorder}, titles)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--mistakes-table", help="Write docs/reference/mistakes.md from what the tests saw.")


def pytest_configure(config: pytest.Config) -> None:
    # What libraries have made stays: going through all of it again and again is a tenth of the time.
    gc.set_threshold(50_000, 10, 10)
    config.stash[TITLES] = {}
    config.pluginmanager.register(Said(), "said")


def pytest_xdist_auto_num_workers() -> int:
    """One process more than there are cores: many tests wait for a service, a database or a clock."""
    return (os.cpu_count() or 1) + 1


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    for item in items:
        for marker in item.iter_markers("mistake"):
            config.stash[TITLES][marker.args[0]] = item.path
    yield  # what is not wanted is left out
    if "PYTEST_XDIST_WORKER" in os.environ:
        items[:] = longest_spread(items)


# The longest first: each takes a minute and more, and the last of them would keep one process busy while the
# others have nothing left.
LONGEST = (
    "test_generated_pilot.py::test_the_pilots_own_tests_pass",
    "test_somebody_elses_data.py::test_a_simulated_regression_passes_the_standards_own_tests",
    "test_release.py::test_a_version_is_released",
    "test_somebody_elses_data.py::test_real_weather_decides_once_it_is_declared_a_sample",
)


def longest_spread(items: list[pytest.Item]) -> list[pytest.Item]:
    """The longest tests at the beginning of each process's share, in turn.

    pytest-xdist gives the first process so many tests in order, then the next as many, and so on; what is
    left over at the end is shared out anew.
    """
    shares = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    longest = [item for name in LONGEST for item in items if name in item.nodeid]
    others = [item for item in items if item not in longest]
    size = -(-len(items) // shares)
    found: list[pytest.Item] = []
    for number in range(shares):
        first = longest[number::shares]
        rest = others[: max(size - len(first), 0)]
        others = others[len(rest) :]
        found += [*first, *rest]
    return found + others


def pytest_sessionfinish(session: pytest.Session) -> None:
    file = session.config.getoption("--mistakes-table")
    if file and not hasattr(session.config, "workerinput"):
        said = cast(Said, session.config.pluginmanager.get_plugin("said"))
        Path(file).write_text(said.page(), encoding="utf-8")


@pytest.fixture
def titles(pytestconfig: pytest.Config) -> dict[str, Path]:
    """Every mistake that the tests of this session plant, and the file that does."""
    return pytestconfig.stash[TITLES]


@pytest.fixture
def note(request: pytest.FixtureRequest, titles: dict[str, Path]) -> Callable[..., None]:
    """Keep what was said to the mistake that the test is marked with."""
    title = request.node.get_closest_marker("mistake").args[0]

    def note(line: str, code: int, root: Path) -> None:
        line = line.removeprefix("pilot: ").replace(str(root), "PILOT")
        place = list(titles).index(title)
        request.node.user_properties.append(("said", [title, place, str(titles[title]), line, code]))

    return note
