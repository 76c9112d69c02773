"""TLS by pilot.toml: from 1.2 on, with a key of the service's own, and a stop that is confirmed as before."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from certificates import certified
from harness.control.confirmation import ask
from harness.control.readers import Reader
from harness.errors import PilotError
from harness.load.generator import Generator, Target, due
from harness.serving.tls import check, loaded, trusting

Serve = Callable[..., Any]
Pilot = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def files(tiny: Any) -> tuple[Path, Path]:
    tiny.toml.write_text(tiny.toml.read_text() + 'tls_certificate = "tls.pem"\ntls_key = "tls.key"\n')
    return certified(tiny.root)


def shown(running: Any) -> str:
    """Whom the service says it is."""
    parts = urlsplit(running.url)
    unverified = ssl._create_unverified_context()
    with (
        socket.create_connection((parts.hostname, parts.port), timeout=30) as line,
        unverified.wrap_socket(line) as inside,
    ):
        found = inside.getpeercert(binary_form=True)
    assert found
    named = x509.load_der_x509_certificate(found).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(named[0].value)


def test_a_client_needs_the_certificate_where_it_asks_by_tls(tiny: Any, files: tuple[Path, Path]) -> None:
    """Behind what ends TLS, or on another machine, it is not there."""
    certificate, _ = files
    assert trusting(tiny.settings(), "https://127.0.0.1:1") is not True
    certificate.unlink()
    assert trusting(tiny.settings(), "http://127.0.0.1:1") is True
    with pytest.raises(PilotError, match="it cannot be used: No such file"):
        trusting(tiny.settings(), "HTTPS://127.0.0.1:1")


def test_it_decides_is_stopped_and_confirms_by_tls(
    tiny: Any, files: tuple[Path, Path], served: Serve, pilot_command: Pilot, wait: Callable[..., Any]
) -> None:
    tiny.offered()
    running = served()
    assert running.url.startswith("https://127.0.0.1:")
    record = tiny.root / "record.json"
    record.write_text(json.dumps(tiny.record))
    done = pilot_command("decide", str(record), "--url", running.url, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["served_by"] == "model"
    moments = due(20, 0.2, "constant", 1)
    with Generator() as asking:
        target = Target(running.url, [json.dumps(tiny.record)], trusts=str(files[0]))
        assert asking.run(target, moments, connections=1).given.all()
        assert not asking.run(replace(target, trusts=""), moments, connections=1).given.any()
    with httpx.Client(verify=ssl.create_default_context(cafile=files[0]), trust_env=False) as client:
        answer = client.get(f"{running.url}/health")
    assert answer.headers["strict-transport-security"] == "max-age=31536000"
    with pytest.raises(httpx.ConnectError), httpx.Client(trust_env=False) as client:
        client.get(f"{running.url}/health")  # whom nobody vouches for
    stopped = pilot_command("kill", "--reason", "too wet")
    assert stopped.returncode == 0, stopped.stderr
    # A service that has no address besides is asked at the common one.
    word = ask(Reader(pid=0, started=0, folder="", url=running.url))
    assert (word.heard, word.stopped) == (True, True)
    # The certificate is renewed, first badly.
    files[0].write_text("no certificate")
    running.process.send_signal(signal.SIGHUP)
    log = tiny.root / "service-0.log"
    wait(lambda: "the certificate in use stays" in log.read_text())
    assert shown(running) == "pilot"
    certified(tiny.root, "renewed")
    running.process.send_signal(signal.SIGHUP)
    wait(lambda: shown(running) == "renewed")
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(timeout=30) == 0


@pytest.mark.slow
def test_several_processes_take_the_new_certificate_one_after_the_other(
    tiny: Any, files: tuple[Path, Path], served: Serve, wait: Callable[..., Any]
) -> None:
    running = served("--workers", "2")
    assert shown(running) == "pilot"
    certified(tiny.root, "renewed")
    running.process.send_signal(signal.SIGHUP)
    wait(lambda: {shown(running) for _ in range(6)} == {"renewed"}, within=120)


def test_older_versions_are_not_spoken(tmp_path: Path) -> None:
    context = loaded(*certified(tmp_path))
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_RENEGOTIATION


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o620, 0o666, 0o777])
def test_a_key_that_others_may_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    certificate, key = certified(tmp_path)
    key.chmod(mode)
    with pytest.raises(PilotError, match=f"private key.*chmod 600 {key}"):
        check(certificate, key)


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o640])
def test_a_key_of_the_account_or_its_group_will_do(tmp_path: Path, mode: int) -> None:
    certificate, key = certified(tmp_path)
    key.chmod(mode)
    check(certificate, key)


def test_files_that_cannot_be_used_are_told_before_anything_starts(
    tiny: Any, files: tuple[Path, Path], pilot_here: Pilot
) -> None:
    _, key = files
    other = tiny.root / "other"
    other.mkdir()
    certified(other)

    def told() -> str:
        done = pilot_here("serve")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        return done.stderr

    certified(tiny.root, days=(-9, -1))
    assert "it expired on" in told()
    certified(tiny.root, days=(1, 9))
    assert "it is not valid before" in told()
    certified(tiny.root, passphrase=b"known to somebody")
    assert "openssl pkey" in told()
    certified(tiny.root)
    key.write_bytes((other / "tls.key").read_bytes())
    assert "does not belong to the certificate" in told()
    key.write_text("")
    assert "it holds no private key in PEM" in told()
    key.unlink()
    assert "tls_key" in told()
    tiny.toml.write_text(tiny.toml.read_text().replace('tls_key = "tls.key"\n', ""))
    assert "named together" in told()
