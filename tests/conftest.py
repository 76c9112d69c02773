"""Fixtures for rendering: Copier's Python API in process, never trusted, from copies without git."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jinja2 import FileSystemLoader
from jinja2.sandbox import SandboxedEnvironment

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
