"""The template with a tag for each release, and pilots of each."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rendering import render
from updating import TARGET, contents, known, pilot_of, releases, tagged

Released = Callable[[str], Path]


@pytest.fixture(scope="session")
def released(template_at_head: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template in which every release has its tag. Shared: change nothing."""
    return tagged(tmp_path_factory.mktemp("released") / "template", template_at_head)


@pytest.fixture(scope="session")
def pilots(released: Path, tmp_path_factory: pytest.TempPathFactory) -> Released:
    """A pilot of a release. Shared: change nothing."""
    made: dict[str, Path] = {}

    def pilots(version: str) -> Path:
        if not known(releases()[version]):
            pytest.skip(f"this clone is shallow and does not reach back to {version}: git fetch --unshallow")
        if version not in made:
            folder = tmp_path_factory.mktemp(f"of-{version}") / "pilot"
            made[version] = pilot_of(released, version, folder)
        return made[version]

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
def fresh_copy(released: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a team that starts today gets for the same answers."""
    folder = tmp_path_factory.mktemp("today") / "pilot"
    return contents(render(released, folder, {"team": "Credit control"}, vcs_ref=f"v{TARGET}"))
