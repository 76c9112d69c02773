"""What is made from the checks, or made for them, is current; and the wheel holds what a hook needs."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from pilot_template.hooks import CHECKS, manifest, template
from pilot_template.hooks.manifest import MANIFEST
from pilot_template.update import ownership
from rendering import ROOT, files

AGAIN = "run `make manifest` and commit what it writes"


def test_the_list_of_the_standards_files_is_current() -> None:
    assert (ROOT / "template" / MANIFEST).read_text(encoding="utf-8") == template.build(ROOT), AGAIN


def test_the_page_of_the_checks_is_current() -> None:
    assert (ROOT / template.PAGE).read_text(encoding="utf-8") == template.page(), AGAIN


def test_sha256sum_reads_the_list(fresh_once: Path) -> None:
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "--quiet", MANIFEST],
        cwd=fresh_once,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_list_has_every_file_of_the_standards_that_carries_no_answers(fresh_once: Path) -> None:
    listed = set(manifest.parse((fresh_once / MANIFEST).read_text()))
    assert {name for name in files(fresh_once / "harness")} == {
        name.removeprefix("harness/") for name in listed if name.startswith("harness/")
    } | {"MANIFEST.sha256"}
    assert listed >= {"Makefile", "dvc.yaml", ".gitignore", ".gitattributes", ".dvcignore", ".dvc/.gitignore"}
    owned = ownership.in_folder(ROOT)
    rest = {
        name
        for name in files(fresh_once) - listed
        if not name.startswith(".git/") and not owned.is_teams(name)
    }
    # The standard's files that carry answers: few, and each for a reason.
    assert rest == {
        ".copier-answers.yml",
        ".github/workflows/pilot-scheduled.yml",
        ".github/workflows/pilot-audit.yml",
        ".github/workflows/pilot.yml",
        ".pre-commit-config.yaml",
        MANIFEST,
    }


def test_every_check_is_a_hook_under_its_name() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
    assert hooks == [
        {
            "id": check.name,
            "name": f"{check.id} {check.name}",
            "description": check.says,
            "entry": f"pilot-checks --same-version {check.id}",
            "language": "python",
            "pass_filenames": False,
            "always_run": True,
        }
        for check in CHECKS
    ]


def test_a_pilot_asks_for_every_hook(fresh_once: Path) -> None:
    config = yaml.safe_load((fresh_once / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [hook["id"] for hook in config["repos"][0]["hooks"]] == [check.name for check in CHECKS]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(folder),
        str(ROOT),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    (found,) = folder.glob("pilot_template-*.whl")
    return found


def test_the_wheel_holds_the_checks_the_list_and_the_models(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    ours = {
        f"pilot_template/{folder}/{name}"
        for folder in ("hooks", "update")
        for name in files(ROOT / folder)
        if "__pycache__" not in name
    }
    assert "pilot_template/update/notes/0.1.0.yaml" in ours
    source = ROOT / "template" / "harness" / "src"
    alone = ("__init__.py", "errors.py", "interruption.py", "progress.py")
    models = {
        f"harness/{name}"
        for name in files(source / "harness")
        if name.endswith(".py") and (name.startswith("governance/") or name in alone)
    }
    assert names == ours | models | {"pilot_template/hooks/MANIFEST.sha256"}


def test_the_wheel_works_on_its_own(wheel: Path, fresh_once: Path, tmp_path: Path) -> None:
    """Nothing but the wheel, PyYAML and pydantic: what it carries of the harness needs no more of it."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    kept = (
        "yaml",
        "_yaml",
        "pydantic",
        "pydantic_core",
        "annotated_types",
        "typing_extensions",
        "typing_inspection",
    )
    installed = Path(yaml.__file__).parents[1]
    for name in (*kept, "typing_extensions.py"):
        if (installed / name).exists():
            (tmp_path / "site" / name).symlink_to(installed / name)
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1))\n"
        "from pilot_template.hooks import cli; sys.exit(cli.main())"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            "-c",
            code,
            str(tmp_path / "site"),
            "--root",
            str(fresh_once),
            "--same-version",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 passed, 1 skipped" in done.stdout


def test_the_standards_own_files_keep_to_the_checks_limits() -> None:
    """Otherwise every new pilot would fail PT302."""
    from pilot_template.hooks.checks.repository import LIMIT

    for name in manifest.parse((ROOT / "template" / MANIFEST).read_text()):
        assert (ROOT / "template" / name).stat().st_size < LIMIT, name
