"""Certificates that sign themselves, for a service on this machine."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID


def certified(
    folder: Path,
    name: str = "pilot",
    *,
    file: str = "tls",
    days: tuple[int, int] = (-1, 1),
    passphrase: bytes = b"",
) -> tuple[Path, Path]:
    """A certificate of this machine, signed by itself, and its key.

    Args:
        folder: Where both are written.
        name: Whom it names.
        file: What both files are called, but for ``.pem`` and ``.key``.
        days: From and until how many days from now it is valid.
        passphrase: What the key is locked with; empty for nothing.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    named = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    begins, ends = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=each) for each in days)
    made = (
        x509.CertificateBuilder()
        .subject_name(named)
        .issuer_name(named)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    locked = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    certificate, private = folder / f"{file}.pem", folder / f"{file}.key"
    certificate.write_bytes(made.public_bytes(Encoding.PEM))
    private.touch(mode=0o600)
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked))
    return certificate, private
