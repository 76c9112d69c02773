"""The template with a tag for each release, and pilots of each."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pilot_template.update import run
from pilot_template.update.template import Rendered, Template, files_of
from rendering import render
from updating import TARGET, contents, known, pilot_of, releases, tagged

Released = Callable[[str], Path]


@pytest.fixture(scope="session")
def released(template_at_head: Path, made_once: Callable[..., Path]) -> Path:
    """The template in which every release has its tag. Shared: change nothing."""
    return made_once("released", lambda folder: tagged(folder, template_at_head))


@pytest.fixture(scope="session")
def pilots(released: Path, made_once: Callable[..., Path]) -> Released:
    """A pilot of a release. Shared: change nothing."""

    def pilots(version: str) -> Path:
        if not known(releases()[version]):
            pytest.skip(f"this clone is shallow and does not reach back to {version}: git fetch --unshallow")
        return made_once(f"of-{version}", lambda folder: pilot_of(released, version, folder))

    return pilots


@pytest.fixture(params=list(releases()))
def version(request: pytest.FixtureRequest) -> str:
    """Each release."""
    return str(request.param)


@pytest.fixture
def old(version: str, pilots: Released, tmp_path: Path) -> Path:
    """A pilot of each release, for a test of its own."""
    return Path(shutil.copytree(pilots(version), tmp_path / "old", symlinks=True))


@pytest.fixture
def oldest(pilots: Released, tmp_path: Path) -> Path:
    """A pilot of the first release, for a test of its own."""
    return Path(shutil.copytree(pilots(next(iter(releases()))), tmp_path / "oldest", symlinks=True))


@pytest.fixture(scope="session")
def fresh_copy(released: Path, made_once: Callable[..., Path]) -> dict[str, bytes]:
    """What a team that starts today gets for the same answers."""

    def make(folder: Path) -> None:
        render(released, folder, {"team": "Credit control"}, vcs_ref=f"v{TARGET}")

    return contents(made_once("today", make))


@pytest.fixture
def rendered_once(made_once: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The same answers at the same version of the same template give the same files: Copier is asked once.

    It takes most of an update's time. test_pilot_update.py has updates with Copier itself.
    """
    whole = run.template.render

    def render_once(template: Template, version: str, answers: dict[str, Any], folder: Path) -> Rendered:
        asked = (template.source, version.removeprefix("v"), sorted(answers.items()))
        name = f"by-copier-{hashlib.sha256(repr(asked).encode()).hexdigest()[:16]}"
        made = made_once(name, lambda place: whole(template, version, answers, place))
        shutil.copytree(made, folder)
        return Rendered(folder, files_of(folder))

    monkeypatch.setattr(run.template, "render", render_once)
