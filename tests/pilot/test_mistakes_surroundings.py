"""Git, the network, missing rights and full disks."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from harness.simulate import embedded
from mistakes.planted import Pilot

pytestmark = pytest.mark.timeout(300)
Note = Callable[..., None]


@pytest.mark.mistake("a pilot outside any repository")
def test_no_repository(new: Pilot, note: Note) -> None:
    shutil.rmtree(new.root / ".git")
    ended = new.run("run")
    assert ended.code == 2
    assert "not in a git repository" in ended.line
    assert "git init" in ended.line
    note(ended.line, ended.code, new.root)
    new.works("status")


@pytest.mark.mistake("git is not installed")
def test_no_git(new: Pilot, note: Note) -> None:
    ended = new.run("run", more={"PATH": str(Path(sys.executable).parent)})
    assert ended.code == 2
    assert ended.line == "pilot: PATH: git is not installed. Install git."
    note(ended.line, ended.code, new.root)
    assert new.works("status", more={"PATH": str(Path(sys.executable).parent)})


@pytest.mark.mistake("a repository of another account")
def test_a_repository_of_another_account(new: Pilot, note: Note) -> None:
    if os.getuid():
        pytest.skip("only root can give a folder away")
    for path in (new.root, new.root / ".git"):
        os.chown(path, 12345, 12345)
    ended = new.run("run", more={"GIT_CONFIG_GLOBAL": "/dev/null"})
    assert ended.code == 2
    assert "belongs to another account" in ended.line
    assert "safe.directory" in ended.line
    note(ended.line, ended.code, new.root)


@pytest.mark.mistake("a run over changes that are not committed")
def test_a_dirty_work_tree_and_then_one_without_a_commit(trained: Pilot, note: Note) -> None:
    tracked = trained.root / "var" / "mlflow" / "mlflow.db"

    def tags() -> dict[str, str]:
        with sqlite3.connect(tracked) as connection:
            last = "(select run_uuid from runs order by start_time desc)"
            query = f"select key, value from tags where run_uuid = {last}"
            return dict(connection.execute(query).fetchall())

    assert tags()["git_dirty"] == "false"
    # Beside the package: it is code, and no stage depends on it, so that few have to run.
    (trained.root / "src" / "ours.py").write_text("DAYS = 30\n", encoding="utf-8")
    (line,) = (line for line in trained.works("run").stdout.splitlines() if "committed" in line)
    assert "Commit, and run again" in line
    note(f"(`pilot run`) {line.strip()}", 0, trained.root)
    assert tags()["git_dirty"] == "true"
    assert tags()["git_tree"] == trained.git("rev-parse", "HEAD^{tree}")
    trained.git("add", "src/ours.py")
    trained.git("commit", "-q", "-m", "a module")
    trained.works("stage", "publish")
    assert tags()["git_dirty"] == "false"

    shutil.rmtree(trained.root / ".git")
    trained.git("init", "-q", "-b", "main")
    assert line in trained.works("run").stdout
    assert (tags()["git_dirty"], tags()["git_tree"]) == ("true", "none")


@pytest.mark.mistake("the wrong password for a database")
def test_a_wrong_password(trained: Pilot, note: Note) -> None:
    place = trained.root / "var" / "sources" / "erp-postgres"
    with embedded.server(place) as url:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("set password_encryption = 'scram-sha-256'")
            connection.execute("create role reader login password 'right'")
            connection.execute("grant select on all tables in schema public to reader")
            file = Path(connection.execute("show hba_file").fetchall()[0][0])
            file.write_text("local all reader scram-sha-256\n" + file.read_text())
            connection.execute("select pg_reload_conf()")
        time.sleep(0.5)

        def with_password(password: str) -> dict[str, str]:
            return {"PILOT_SOURCES__ERP__URL": url.replace("postgres:@", f"reader:{password}@")}

        ended = trained.run("stage", "ingest", more=with_password("mistaken"))
        assert ended.code == 2
        assert "[sources.erp] url (postgresql://reader:***@" in ended.line
        assert "password authentication failed" in ended.line
        assert "mistaken" not in ended.line
        # A folder whose path is too long for a socket is reached by a short link, named at random.
        note(ended.line.replace(url.partition("?host=")[2], "…"), ended.code, trained.root)
        trained.works("stage", "ingest", more=with_password("right"))


@pytest.mark.mistake("`make setup` without a network")
def test_no_network_for_the_setup(new: Pilot, note: Note) -> None:
    nowhere = {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": "http://127.0.0.1:1/simple",
        "PIP_RETRIES": "0",
    }
    others = {"PIP_EXTRA_INDEX_URL": "", "PIP_FIND_LINKS": "", "PIP_NO_INDEX": ""}
    command = ["make", "setup", f"PYTHON={sys.executable}"]
    options = new.options({**nowhere, **others})
    done = subprocess.run(command, **options, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("make setup: "))
    assert "Check the network and pip's index" in line
    # What was begun is known to be unfinished, so that the next set-up begins anew.
    assert (new.root / ".venv" / ".unfinished").exists()
    assert not (new.root / ".venv" / ".ready").exists()
    note(line, done.returncode, new.root)


@pytest.mark.slow  # test_generated_pilot.py runs its demo without a network too
@pytest.mark.mistake("no network at all, in a pilot that is set up")
def test_no_network_at_all(new: Pilot, note: Note) -> None:
    alone = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    if not shutil.which("unshare") or subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip("this account may not take the network away")
    command = [*alone, *new.command("demo")]
    done = subprocess.run(command, **new.options(), capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "9 answered, 9 on record" in done.stdout
    assert "pilot: " not in done.stderr
    note("nothing: `pilot demo`, and each command in it, needs none.", 0, new.root)


@contextmanager
def deaf() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(50)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.mistake("the MLflow server cannot be reached")
def test_mlflow_is_gone(trained: Pilot, note: Note) -> None:
    started = time.monotonic()
    ended = trained.run("run", more={"PILOT_TRACKING__URI": "http://127.0.0.1:1"})
    assert time.monotonic() - started < 60
    assert ended.code == 2
    assert "[tracking] uri (http://127.0.0.1:1): MLflow does not take the run" in ended.line
    assert "the server cannot be reached (Connection refused)" in ended.line
    assert "the package is kept" in ended.line
    note(ended.line, ended.code, trained.root)
    trained.works("stage", "publish")


@pytest.mark.mistake("the MLflow server does not answer")
def test_mlflow_is_deaf(modelled: Pilot, note: Note) -> None:
    with deaf() as address:
        started = time.monotonic()
        # A team's own patience is heeded; test_traps.py holds the one that it gets otherwise.
        more = {"PILOT_TRACKING__URI": address, "MLFLOW_HTTP_REQUEST_TIMEOUT": "2"}
        ended = modelled.run("stage", "publish", more=more)
        took = time.monotonic() - started
    assert took < 20
    assert ended.code == 2
    assert "the server cannot be reached (timed out)" in ended.line
    note(ended.line.replace(address, "http://mlflow"), ended.code, modelled.root)


@pytest.mark.parametrize(
    ("command", "places", "says"),
    [
        pytest.param(command, places, says, id=title, marks=pytest.mark.mistake(title))
        for title, command, places, says in (
            ("a folder without the right to write, and pilot run", ("run",), ("var", "var/run"), "var/run"),
            (
                "a folder without the right to write, and pilot simulate",
                ("simulate",),
                ("var/sources",),
                "sources",
            ),
            (
                "a folder without the right to write, and pilot serve",
                ("serve",),
                ("var",),
                "store cannot be opened",
            ),
            (
                "a folder without the right to write, and pilot kill",
                ("kill", "--reason", "x"),
                ("var/control",),
                "THE MODEL WAS NOT STOPPED",
            ),
            ("data without the right to write", ("stage", "ingest"), ("data", "data/raw"), "may not"),
        )
    ],
)
def test_missing_rights(
    command: tuple[str, ...], places: tuple[str, ...], says: str, trained: Pilot, note: Note
) -> None:
    if sys.platform != "linux" and not os.getuid():
        pytest.skip("root cannot give up its rights here")
    for place in places:
        for path in [*(trained.root / place).rglob("*"), trained.root / place]:
            if "-postgres" not in str(path) and not path.is_symlink():
                path.chmod(0o555 if path.is_dir() else 0o444)
    before = trained.written()
    ended = trained.run(*command, nobody=True)
    assert ended.code == (1 if command[0] == "kill" else 2)
    assert says in ended.line
    assert trained.written() == before
    note(ended.line, ended.code, trained.root)
    for place in places:
        for path in [trained.root / place, *(trained.root / place).rglob("*")]:
            if "-postgres" not in str(path) and not path.is_symlink():
                path.chmod(0o755 if path.is_dir() else 0o644)
    trained.works(*(command if command[0] in ("kill", "stage") else ("status",)))


@contextmanager
def full(folder: Path, size: str) -> Iterator[Path]:
    """A small disk in place of the folder, with what the folder holds."""
    content = folder.with_name(f"{folder.name}-before")
    folder.rename(content)
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        folder.rmdir()
        content.rename(folder)
        pytest.skip("this account may not mount a small disk")
    try:
        subprocess.run(["cp", "-a", f"{content}/.", str(folder)], check=False)
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
        folder.rmdir()
        content.rename(folder)


@pytest.mark.mistake("no room for the data")
def test_a_full_disk_for_data(trained: Pilot, note: Note) -> None:
    with full(trained.root / "data", "512k") as disk:
        (disk / "filler").write_bytes(b"x" * shutil.disk_usage(disk).free)
        before = trained.written()
        ended = trained.run("stage", "ingest")
        assert ended.code == 2
        assert "has no room left" in ended.line
        assert "Free some" in ended.line
        assert trained.written() == before
        assert not trained.parts()
        note(ended.line, ended.code, trained.root)
        # DVC clears a stage's results away first, and may then itself be the one that finds no room.
        (disk / "filler").write_bytes(b"x" * (disk / "filler").stat().st_size)
        ended = trained.run("run")
        assert ended.code == 2
        assert "Free" in ended.line
    trained.works("run")


@pytest.mark.mistake("no room for MLflow")
def test_a_full_disk_for_mlflow(modelled: Pilot, note: Note) -> None:
    with full(modelled.root / "var" / "mlflow", "4m") as disk:
        (disk / "filler").write_bytes(b"x" * shutil.disk_usage(disk).free)
        ended = modelled.run("stage", "publish")
        assert ended.code == 2
        assert "has no room left" in ended.line
        note(ended.line, ended.code, modelled.root)
        (disk / "filler").unlink()
        modelled.works("stage", "publish")


@pytest.mark.mistake("no room for the stop's latch and audit")
def test_a_full_disk_for_a_stop(modelled: Pilot, note: Note) -> None:
    def none() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    ended = modelled.run("kill", "--reason", "now", limit=none)
    assert ended.code == 0
    assert "STOPPED" in ended.stdout
    assert "the model is stopped, and this could not be written: the latch in state.json" in ended.line
    assert "the line in audit.jsonl" in ended.line
    note(ended.line, ended.code, modelled.root)
    assert "STOPPED: the KILL file is there" in modelled.works("status").stdout
    assert "KILL" not in modelled.works("kill", "--reason", "again").stderr
    modelled.works("arm", "--reason", "on")
    assert "in force" in modelled.works("status").stdout
