"""A damaged model, a port in use, a broken request: the service says so and goes on by the fallback."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from mistakes.planted import Pilot

pytestmark = pytest.mark.timeout(300)
Note = Callable[..., None]


@contextmanager
def serving(pilot: Pilot, *arguments: str, limit: Callable[[], None] | None = None) -> Iterator[str]:
    """`pilot serve` until the end of the block, which it must reach alive; gives its address."""
    log = pilot.root / "var" / "service.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("w") as stream:
        command = pilot.command("serve", *(arguments or ("--port", "0")))
        process = subprocess.Popen(command, **pilot.options(), stdout=stream, stderr=stream, preexec_fn=limit)
    try:
        deadline = time.monotonic() + 60
        while "listening on" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield log.read_text().partition("listening on ")[2].split()[0]
        assert process.poll() is None, log.read_text()
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
        assert "Traceback" not in log.read_text()


@pytest.mark.mistake("a decision without a token where one is needed")
def test_no_token(modelled: Pilot, note: Note) -> None:
    modelled.edit("pilot.toml", "open_in_sandbox = true", "open_in_sandbox = false")
    with serving(modelled) as url:
        ended = modelled.run("decide", "--example", "1", "--url", url)
        assert ended.code == 2
        assert "a token is needed, so nothing was decided" in ended.line
        assert "`pilot token issue NAME --scope decide`, and set PILOT_TOKEN" in ended.line
        note(ended.line.replace(url, "http://127.0.0.1:8080"), ended.code, modelled.root)
        token = modelled.works("token", "issue", "collections").stdout.strip()
        modelled.works("decide", "--example", "1", "--url", url, more={"PILOT_TOKEN": token})


def get(address: str) -> httpx.Response:
    return httpx.get(address, timeout=30, trust_env=False)


def kept(pilot: Pilot) -> Path:
    (folder,) = (path for path in (pilot.root / "var" / "models").iterdir() if path.is_dir())
    return folder


def gone(pilot: Pilot) -> None:
    shutil.rmtree(kept(pilot))


def a_file_gone(pilot: Pilot) -> None:
    (kept(pilot) / "model" / "model.txt").unlink()


def truncated(pilot: Pilot) -> None:
    file = kept(pilot) / "model" / "model.txt"
    file.write_bytes(file.read_bytes()[:100])


def another(pilot: Pilot) -> None:
    manifest = kept(pilot) / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"simulated"', '"sample"'))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        pytest.param(
            damage,
            says,
            id=title,
            # What is missing, changed or another one is told by the same look at the package.
            marks=[
                pytest.mark.mistake(title),
                *([pytest.mark.slow] if damage in (a_file_gone, another) else []),
            ],
        )
        for title, damage, says in (
            ("the packaged model is missing", gone, "there is no packaged model"),
            (
                "a file of the packaged model is missing",
                a_file_gone,
                "a file of the packaged model is missing",
            ),
            ("the packaged model is cut short", truncated, "a file of the packaged model is changed"),
            ("the packaged model is another one", another, "the package is not the one of digest"),
        )
    ],
)
def test_a_damaged_model_means_the_fallback_until_the_next_run(
    damage: Callable[[Pilot], None], says: str, request: pytest.FixtureRequest, note: Note
) -> None:
    mended = damage is truncated  # the mend is the same for each, and takes a while
    modelled: Pilot = request.getfixturevalue("trained" if mended else "modelled")
    damage(modelled)
    with serving(modelled) as url:
        decided = json.loads(modelled.works("decide", "--example", "1", "--url", url, "--json").stdout)
        assert (decided["served_by"], decided["why"]) == ("fallback", "model_unavailable")
        (problem,) = get(f"{url}/ready").json()["models"].values()
        assert says in problem
        assert "Run `pilot run`" in problem or "run `pilot run`" in problem
        status = modelled.works("status").stdout
        assert f"NOT USABLE, the fallback decides: {problem}" in status
        (line,) = (line for line in status.splitlines() if "NOT USABLE" in line)
    note(f"(`pilot status`) {line.strip()}", 0, modelled.root)
    if mended:
        modelled.works("run")
        assert "NOT USABLE" not in modelled.works("status").stdout
        with serving(modelled) as url:
            answer = modelled.works("decide", "--example", "1", "--url", url, "--json").stdout
            assert json.loads(answer)["served_by"] == "model"


@pytest.mark.mistake("a port that another program uses")
def test_a_port_in_use(new: Pilot, note: Note) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ended = new.run("serve", "--port", port)
    assert ended.code == 2
    assert f"pilot.toml [serving] port: port {port} on 127.0.0.1 is in use" in ended.line
    assert "--port" in ended.line
    note(ended.line.replace(port, "8080"), ended.code, new.root)
    with serving(new, "--port", port) as url:
        assert get(f"{url}/ready").status_code == 200


@pytest.mark.mistake("a second service on the same port")
def test_a_second_service(new: Pilot, note: Note) -> None:
    with serving(new) as url:
        port = url.rpartition(":")[2]
        ended = new.run("serve", "--port", port)
        assert get(f"{url}/ready").status_code == 200
    assert ended.code == 2
    assert f"port {port} on 127.0.0.1 is in use" in ended.line
    note(ended.line.replace(port, "8080"), ended.code, new.root)


@pytest.mark.mistake("a record that breaks the contract")
def test_a_record_that_breaks_the_contract(modelled: Pilot, note: Note) -> None:
    with serving(modelled) as url:
        ask = ("decide", "-", "--url", url)
        good = example(modelled)
        ended = modelled.run(*ask, said=json.dumps({**good, "terms_days": 500}))
        assert ended.code == 1
        assert "terms_days: the record breaks the contract" in ended.line
        assert "less than or equal to 180" in ended.line
        note(ended.line, ended.code, modelled.root)
        for field, value in (("account_no", "A\0B"), ("due_on", "soon"), ("segment", "none")):
            ended = modelled.run(*ask, said=json.dumps({**good, field: value}))
            assert ended.code == 1
            assert f"pilot: {field}: the record breaks the contract" in ended.line
        assert modelled.run(*ask, said=json.dumps(good)).code == 0


def example(pilot: Pilot) -> dict[str, Any]:
    import polars as pl

    frame = pl.read_parquet(pilot.root / "data" / "features" / "test_records.parquet").drop("late")
    found: dict[str, Any] = json.loads(json.dumps(frame.row(0, named=True), default=str))
    return found


@pytest.mark.mistake("a decision from what is no decision service")
def test_somebody_elses_service(new: Pilot, note: Note) -> None:
    class Page(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>Welcome</html>")

        def log_message(self, *_: object) -> None:
            pass

    (new.root / "record.json").write_text("{}")
    with HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        ended = new.run("decide", "record.json", "--url", f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
    assert ended.code == 2
    assert "what answers there is no decision service (200)" in ended.line
    note(ended.line.replace(str(server.server_port), "8080"), ended.code, new.root)


@pytest.mark.mistake("the store's file is deleted under the service")
def test_a_deleted_store(modelled: Pilot, note: Note) -> None:
    with serving(modelled) as url:
        ask = ("decide", "--example", "1", "--url", url)
        modelled.works(*ask)
        for file in (modelled.root / "var").glob("decisions.db*"):
            file.unlink()
        ready = get(f"{url}/ready")
        assert ready.status_code == 503
        assert "deleted or replaced" in ready.json()["detail"]
        ended = modelled.run(*ask)
        assert ended.code == 2
        assert "no decision was made (503)" in ended.line
        assert "restart the service" in ended.line
    note(ended.line.replace(url, "http://127.0.0.1:8080"), ended.code, modelled.root)
    with serving(modelled) as url:
        modelled.works("decide", "--example", "1", "--url", url)
    assert "decisions on record: 1" in modelled.works("status").stdout


@pytest.mark.mistake("no room for a decision")
def test_a_full_disk_for_decisions(modelled: Pilot, note: Note) -> None:
    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (130_000, 130_000))

    with serving(modelled, limit=small) as url:
        ask = ("decide", "--example", "1", "--url", url)
        made = 0
        while (ended := modelled.run(*ask)).code == 0 and made < 60:
            answers = [
                httpx.post(f"{url}/decide", json=example(modelled), trust_env=False) for _ in range(20)
            ]
            made += 1 + sum(answer.status_code == 200 for answer in answers)
        assert ended.code == 2
        assert "no decision was made (503)" in ended.line
        assert "Free the disk" in ended.line
        # Stopping needs no room in the store.
        assert "STOPPED" in modelled.works("kill", "--reason", "the disk is full").stdout
    note(ended.line.replace(url, "http://127.0.0.1:8080"), ended.code, modelled.root)
    with serving(modelled) as url:
        modelled.works("decide", "--example", "1", "--url", url)
    assert f"decisions on record: {made + 1}" in modelled.works("status").stdout
