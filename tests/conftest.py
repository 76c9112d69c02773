"""Fixtures for rendering: Copier's Python API in process, never trusted, from copies without git."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jinja2 import FileSystemLoader
from jinja2.sandbox import SandboxedEnvironment

from mistakes.table import table
from rendering import ROOT, copy_template, render


@pytest.fixture(scope="session")
def whole_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_template(tmp_path_factory.mktemp("whole"))


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
def pilot(whole_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pilot that the default answers give. Shared: read it, change nothing."""
    return render(whole_template, tmp_path_factory.mktemp("default") / "pilot")


@pytest.fixture(scope="session")
def checks() -> Any:
    """The macros of questions/checks.jinja, as Python functions."""
    extensions = ["jinja2_ansible_filters.AnsibleCoreFiltersExtension"]
    environment = SandboxedEnvironment(loader=FileSystemLoader(ROOT), extensions=extensions)
    return environment.get_template("questions/checks.jinja").module


# What a pilot says to each mistake: `pytest tests/pilot --mistakes-table FILE` writes what the tests saw.
SAID: pytest.StashKey[dict[str, tuple[str, int]]] = pytest.StashKey()
TITLES: pytest.StashKey[dict[str, Path]] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--mistakes-table", help="Write docs/reference/mistakes.md from what the tests saw.")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[SAID] = {}
    config.stash[TITLES] = {}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        for marker in item.iter_markers("mistake"):
            config.stash[TITLES][marker.args[0]] = item.path


def pytest_sessionfinish(session: pytest.Session) -> None:
    file = session.config.getoption("--mistakes-table")
    if file:
        Path(file).write_text(
            table(session.config.stash[SAID], session.config.stash[TITLES]), encoding="utf-8"
        )


@pytest.fixture
def titles(pytestconfig: pytest.Config) -> dict[str, Path]:
    """Every mistake that the tests of this session plant, and the file that does."""
    return pytestconfig.stash[TITLES]


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Keep what was said to the mistake that the test is marked with."""
    marker = request.node.get_closest_marker("mistake")

    def note(line: str, code: int, root: Path) -> None:
        line = line.removeprefix("pilot: ").replace(str(root), "PILOT")
        request.config.stash[SAID][marker.args[0]] = line, code

    return note
