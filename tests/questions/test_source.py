"""Every form in which Copier takes a template's address, as pre-commit takes it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from copier._vcs import get_repo
from jinja2 import FileSystemLoader
from jinja2.sandbox import SandboxedEnvironment

from rendering import ROOT, render
from repositories import commit, committed_pilot, git

HOOKS = ".pre-commit-config.yaml"
LOCAL = "//" + "/srv/git/pilot-template"


@pytest.fixture(scope="module")
def address() -> Any:
    extensions = ["jinja2_ansible_filters.AnsibleCoreFiltersExtension"]
    environment = SandboxedEnvironment(loader=FileSystemLoader(ROOT), extensions=extensions)
    return environment.get_template("questions/source.jinja").module.address  # type: ignore[attr-defined]


REMOTE = {
    "gh:acme/pilot-template": "https://github.com/acme/pilot-template.git",
    "gh:/acme/pilot-template": "https://github.com/acme/pilot-template.git",
    "gh:acme/pilot-template.git": "https://github.com/acme/pilot-template.git",
    "gl:acme/group/pilot-template": "https://gitlab.com/acme/group/pilot-template.git",
    "git+https://git.example.org/acme/pilot-template": "https://git.example.org/acme/pilot-template",
    "git+ssh://git@git.example.org:2222/acme/t": "ssh://git@git.example.org:2222/acme/t",
    f"git+file:{LOCAL}": f"file:{LOCAL}",
    "https://git.example.org/acme/t.git": "https://git.example.org/acme/t.git",
    "https://github.com/acme/pilot-template": "https://github.com/acme/pilot-template",
    "ssh://git@git.example.org/acme/t.git": "ssh://git@git.example.org/acme/t.git",
    "git@git.example.org:acme/t.git": "git@git.example.org:acme/t.git",
    "git://git.example.org/acme/t.git": "git://git.example.org/acme/t.git",
}


@pytest.mark.parametrize("source", REMOTE)
def test_an_address(address: Any, source: str) -> None:
    plain = address(source)
    assert plain == REMOTE[source]
    # Copier itself goes there too; it adds ".git" where the two forges do not mind.
    assert (get_repo(source) or "").removesuffix(".git") == plain.removesuffix(".git")


def test_a_path(address: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a b").mkdir()
    assert address(str(tmp_path / "a b")) == str(tmp_path / "a b")
    assert address("~/a b") == str(tmp_path / "a b")
    assert address("a b") == str(tmp_path / "a b")
    assert address(".") == str(tmp_path)


@pytest.mark.parametrize("form", ["{0}", "git+file:/" + "/{0}"], ids=["path", "git+file"])
def test_pre_commit_finds_the_version_there(lean_template: Path, tmp_path: Path, form: str) -> None:
    """A release, a commit after one as `git describe` names it, and a commit without any release."""
    template = Path(shutil.copytree(lean_template, tmp_path / "template"))
    shutil.copy(ROOT / ".pre-commit-hooks.yaml", template)
    git(template, "init", "--quiet", "--initial-branch=main")
    seen = set()
    for tag in ("", "v1.0.0", ""):
        commit(template, "Another", tag)
        pilot = tmp_path / f"pilot-{len(seen)}"
        render(form.format(template), pilot, vcs_ref="HEAD")
        git(pilot, "init", "--quiet", "--initial-branch=main")
        commit(pilot, "Start")
        config = yaml.safe_load((pilot / HOOKS).read_text(encoding="utf-8"))
        rev = config["repos"][0]["rev"]
        seen.add(rev)
        # Reads the hooks from the template at that version, and installs nothing.
        done = subprocess.run(
            [str(ROOT / ".venv/bin/python"), "-m", "pre_commit", "run", "--all-files", "no-such-hook"],
            cwd=pilot,
            env=os.environ | {"PRE_COMMIT_HOME": str(tmp_path / f"home-{len(seen)}")},
            capture_output=True,
            text=True,
        )
        assert "No hook with id `no-such-hook`" in done.stdout, (rev, done.stdout)
    assert {"v1.0.0"} < seen
    assert any(rev.startswith("v1.0.0-1-g") for rev in seen)


def test_without_a_commit_the_pilot_says_that_its_conventions_are_not_checked(
    lean_template: Path, tmp_path: Path
) -> None:
    """From a folder without git, and from changes that were not committed: nobody else can get at those."""
    rendered = [render(lean_template, tmp_path / "one")]
    shutil.copytree(lean_template, tmp_path / "draft")
    git(tmp_path / "draft", "init", "--quiet", "--initial-branch=main")
    commit(tmp_path / "draft", "Start")
    (tmp_path / "draft" / "README.md").write_text("not committed\n")
    with pytest.warns(match="Dirty template changes"):
        rendered.append(committed_pilot(tmp_path / "draft", tmp_path / "two"))
    for pilot in rendered:
        config = yaml.safe_load((pilot / HOOKS).read_text(encoding="utf-8"))
        (local,) = config["repos"]
        assert local["repo"] == "local"
        first = local["hooks"][0]
        assert first["name"] == "the conventions are NOT checked"
        assert first["verbose"], "it is shown although it passes"
        assert "rendered from a commit" in first["entry"]
