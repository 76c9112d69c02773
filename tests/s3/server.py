"""Start the S3 server that ``install.sh`` installed, on the loopback, with accounts that it tells apart."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pyarrow.fs as pafs
import pytest

HERE = Path(__file__).parent
REGION = "us-east-1"
READY_WITHIN_S = 120.0
READS = {"Effect": "Allow", "Action": ["s3:ListBucket", "s3:GetObject"], "Resource": "*"}
ALL = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}


@dataclass(frozen=True)
class Key:
    """An account's credentials."""

    identity: str
    secret: str

    def environment(self) -> dict[str, str]:
        """Where every client of S3 looks for them."""
        return {"AWS_ACCESS_KEY_ID": self.identity, "AWS_SECRET_ACCESS_KEY": self.secret}


@dataclass(frozen=True)
class Store:
    """A running server.

    Attributes:
        url: Where it answers.
        process: The server.
        reader: Credentials that may list and read.
        owner: Credentials that may do everything.
    """

    url: str
    process: subprocess.Popen[bytes]
    reader: Key
    owner: Key

    def files(self) -> pafs.S3FileSystem:
        """The store as its owner has it."""
        return pafs.S3FileSystem(
            access_key=self.owner.identity,
            secret_key=self.owner.secret,
            endpoint_override=self.url,
            region=REGION,
            allow_bucket_creation=True,
        )

    def put(self, path: str, content: bytes) -> None:
        """Store an object under ``bucket/key``."""
        with self.files().open_output_stream(path) as stream:
            stream.write(content)


def folder() -> Path:
    """Where `install.sh` installs it."""
    return Path(os.environ.get("S3_FOLDER", HERE.parents[1] / "scratch" / "s3"))


def _missing() -> str:
    marker = folder() / "installed.txt"
    if not marker.exists() or marker.read_bytes() != (HERE / "requirements.txt").read_bytes():
        return "the pinned moto is not installed: tests/s3/install.sh"
    return ""


@contextmanager
def running(place: Path) -> Iterator[Store]:
    """Run a server; skips the test where there is none to run."""
    missing = _missing()
    if missing:
        pytest.skip(f"no real S3 here: {missing}")
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = str(chosen.getsockname()[1])
    url = f"http://127.0.0.1:{port}"
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG") if name in os.environ}
    log = place / "s3.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [str(folder() / "env" / "bin" / "moto_server"), "-H", "127.0.0.1", "-p", port],
            env=kept,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    try:
        end = time.monotonic() + READY_WITHIN_S
        while True:
            assert process.poll() is None, log.read_text(errors="replace")[-2000:]
            with suppress(httpx.HTTPError):
                if httpx.get(f"{url}/moto-api/", trust_env=False, timeout=5).is_success:
                    break
            assert time.monotonic() < end, log.read_text(errors="replace")[-2000:]
            time.sleep(0.1)
        owner, reader = _account(url, "owner", ALL), _account(url, "reader", READS)
        # From here on it checks signatures and rights.
        httpx.post(f"{url}/moto-api/reset-auth", content="0", trust_env=False).raise_for_status()
        yield Store(url, process, reader, owner)
    finally:
        process.kill()
        process.wait(timeout=20)


def _account(url: str, name: str, may: dict[str, object]) -> Key:
    policy = json.dumps({"Version": "2012-10-17", "Statement": [may]})
    _iam(url, Action="CreateUser", UserName=name)
    _iam(url, Action="PutUserPolicy", UserName=name, PolicyName="may", PolicyDocument=policy)
    made = _iam(url, Action="CreateAccessKey", UserName=name)
    return Key(_found("AccessKeyId", made), _found("SecretAccessKey", made))


def _iam(url: str, **asked: str) -> str:
    scope = f"nobody/20260101/{REGION}/iam/aws4_request"
    signed = f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0"
    answer = httpx.post(url, data=asked, headers={"Authorization": signed}, trust_env=False, timeout=20)
    assert answer.is_success, answer.text
    return answer.text


def _found(name: str, answer: str) -> str:
    found = re.search(f"<{name}>(.*?)</{name}>", answer)
    assert found, answer
    return found[1]
