"""Start the update of a pilot with the updater of the version that is wanted.

Nothing here updates anything. What a release knows of updating is for updates to it; an updater of last
year would not know this year's rules. So the wanted version of the template is fetched, what it needs is
installed into an environment of its own, and its `pilot-update` is run. The words between the two are kept
for good: ``pilot-update --root DIR --clone DIR --to VERSION``, with ``--dry-run``, ``--apply``,
``--no-tests``, ``--json``, ``--report FILE`` and ``--debug``; exit codes 0, 1 and 2.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml
from packaging.version import InvalidVersion, Version

from harness import interruption
from harness.errors import PilotError
from harness.progress import working

ANSWERS = ".copier-answers.yml"
ENTRY = "update/cli.py"
SHORT = (
    (re.compile(r"^gh:/?(.*?)(\.git)?$"), r"https://github.com/\1.git"),
    (re.compile(r"^gl:/?(.*?)(\.git)?$"), r"https://gitlab.com/\1.git"),
    (re.compile(r"^git\+"), ""),
)


def update(root: Path, to: str | None, options: Sequence[str]) -> int:
    """Update the pilot.

    Args:
        root: The pilot's folder.
        to: A version of the template; by default the newest release, or commit where there is none.
        options: What is handed on to `pilot-update`.

    Returns:
        The exit code of `pilot-update`.

    Raises:
        PilotError: The template cannot be reached, has no such version, or its updater cannot be installed.
    """
    source = _source(root)
    with tempfile.TemporaryDirectory(prefix="pilot-updater-") as name:
        clone, environment = Path(name, "template"), Path(name, "environment")
        with working("Fetching the template"):
            _git(Path(name), "clone", "--quiet", "--no-checkout", "--", address(source), str(clone))
            version = _version(clone, source, to)
            if not _known(clone, f"{version}:{ENTRY}"):
                mend = f"Update with Copier itself: copier update --defaults --vcs-ref={version}"
                raise PilotError(f"{version} has no updater of its own", where=source, mend=mend)
            _git(clone, "checkout", "--quiet", "--detach", version)
        with working(f"Installing the updater of {version}"):
            _install(clone, environment)
        command = [environment / "bin" / "pilot-update", "--root", root, "--clone", clone, "--to", version]
        return interruption.run([*map(str, command), *options], env=_environment())


def address(source: str) -> str:
    """The address for `git clone`, of what Copier keeps as `_src_path`."""
    for pattern, plain in SHORT:
        source = pattern.sub(plain, source)
    return str(Path(source).expanduser()) if source.startswith("~") else source


def _source(root: Path) -> str:
    mend = f"Bring it back: `git log -p -- {ANSWERS}` shows who changed it. Only an update writes it."
    try:
        answers = yaml.safe_load((root / ANSWERS).read_text(encoding="utf-8"))
    except OSError as error:
        raise PilotError("the file cannot be read", where=ANSWERS, mend=mend) from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise PilotError("it is not YAML", where=ANSWERS, mend=mend) from error
    source = answers.get("_src_path") if isinstance(answers, dict) else None
    if not isinstance(source, str) or not source:
        raise PilotError("_src_path is missing, the template's address", where=ANSWERS, mend=mend)
    if source.startswith(".") or (":" not in source and not source.startswith(("/", "~"))):
        what = f"_src_path is neither an address nor an absolute path: {source!r}"
        mend = "Write the absolute path or the address of the template there, and commit that."
        raise PilotError(what, where=ANSWERS, mend=mend)
    return source


def _version(clone: Path, source: str, to: str | None) -> str:
    """What git calls the version that is wanted."""
    tags = _git(clone, "tag", "--list").split()
    if to is None:
        return _newest(tags) or _git(clone, "rev-parse", "HEAD").strip()
    for name in (to, f"v{to}", f"origin/{to}"):
        if _known(clone, f"{name}^{{commit}}"):
            return name if name in tags else _git(clone, "rev-parse", f"{name}^{{commit}}").strip()
    newest = _newest(tags)
    mend = f"Its newest release is {newest}." if newest else "It has no release; name a commit."
    raise PilotError(f"the template has no version {to!r}", where=source, mend=mend)


def _newest(tags: Sequence[str]) -> str | None:
    """The newest release by PEP 440, as Copier takes it: without previews."""
    found = []
    for tag in tags:
        try:
            version = Version(tag)
        except InvalidVersion:
            continue
        if not version.is_prerelease:
            found.append((version, tag))
    return max(found)[1] if found else None


def _install(clone: Path, environment: Path) -> None:
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.exists() else shutil.which("uv")
    if uv is None:
        raise PilotError("it is missing", where="uv", mend="Run `make setup`.")
    pins = clone / "template" / "harness"
    install = (
        *("pip", "install", "--quiet", "--python", environment),
        *("--constraints", pins / "constraints.txt", "--build-constraints", pins / "build-constraints.txt"),
        f"pilot-template[update] @ {clone.as_uri()}",
    )
    for step in (("venv", "--quiet", "--python", sys.executable, environment), install):
        done = subprocess.run(
            [uv, *map(str, step)], env=_environment(), capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
            what = f"the updater cannot be installed ({said[-1] if said else 'uv gave no reason'})"
            mend = "Check the network and the package index (pip config list), then run it again."
            raise PilotError(what, where="uv", mend=mend)


def _environment() -> dict[str, str]:
    """This process's environment without what ties Python, uv or git to the pilot's own."""
    ours = ("PYTHON", "VIRTUAL_ENV", "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "UV_PROJECT")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    # An address that the answers file names is fetched, and runs nothing.
    fixed = {"GIT_TERMINAL_PROMPT": "0", "GIT_ALLOW_PROTOCOL": "file:git:http:https:ssh"}
    return {"UV_PYTHON_DOWNLOADS": "never", "UV_SYSTEM_CERTS": "true", **kept, **fixed}


def _known(clone: Path, name: str) -> bool:
    command = ["git", "rev-parse", "--verify", "--quiet", name]
    return subprocess.run(command, cwd=clone, env=_environment(), capture_output=True).returncode == 0


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-c", f"core.hooksPath={os.devnull}", *arguments],
            cwd=folder,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise PilotError("it is not installed", where="git", mend="Install git.") from error
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        what = f"the template cannot be fetched ({said[-1] if said else 'git gave no reason'})"
        mend = f"Check the network and your right to read it, or _src_path in {ANSWERS}."
        raise PilotError(what, where=arguments[-2], mend=mend)
    return done.stdout
