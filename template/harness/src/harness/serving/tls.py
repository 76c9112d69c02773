"""TLS by pilot.toml: version 1.2 at least, with a key that nobody else may read.

A certificate that was renewed is read on SIGHUP: one process reads it for its next connections, several are
replaced one after the other. What cannot be read leaves the old one in use.
"""

from __future__ import annotations

import logging
import ssl
import stat
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from harness.errors import PilotError
from harness.settings import Settings

CERTIFICATE, PRIVATE_KEY = "CERTIFICATE", "PRIVATE KEY"

log = logging.getLogger("harness.serving")


def tls_options(settings: Settings) -> dict[str, Any]:
    """What uvicorn has to be told; nothing where pilot.toml names no certificate.

    Raises:
        PilotError: The certificate or the key cannot be used, or others may read the key.
    """
    said = settings.serving
    if said.tls_certificate is None or said.tls_key is None:
        return {}
    certificate, key = settings.path(said.tls_certificate), settings.path(said.tls_key)
    check(certificate, key)
    return {"ssl_context_factory": partial(_context, certificate, key)}


def check(certificate: Path, key: Path) -> None:
    """Hold the files to what a service needs.

    Raises:
        PilotError: One cannot be read, they do not belong together, the certificate is not valid now, or
            others may read the key.
    """
    held = _held("tls_certificate", certificate, CERTIFICATE)
    private = _held("tls_key", key, PRIVATE_KEY)
    mode = stat.S_IMODE(key.stat().st_mode)
    if mode & (stat.S_IWGRP | stat.S_IRWXO):
        raise PilotError(
            f"other accounts may read or change the private key (mode {mode:04o})",
            where=f"pilot.toml [serving] tls_key, {key}",
            mend=f"Run: chmod 600 {key}",
        )
    if b"ENCRYPTED PRIVATE KEY-----" in private or b",ENCRYPTED" in private:
        raise PilotError(
            "the private key has a passphrase, and a service that starts has nobody to ask for it",
            where=f"pilot.toml [serving] tls_key, {key}",
            mend=f"Name one without: openssl pkey -in {key} -out NEW.key",
        )
    try:
        loaded(certificate, key)
    except OSError as error:  # ssl.SSLError is one
        if getattr(error, "reason", None) in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"):
            raise PilotError(
                f"this private key does not belong to the certificate in {certificate}",
                where=f"pilot.toml [serving] tls_key, {key}",
                mend="Name the key that the certificate was made for; the service's own certificate comes "
                "first in its file, before the chain.",
            ) from error
        raise _unusable("tls_certificate", certificate, _said(error)) from error
    _valid_now(certificate, held)


def loaded(certificate: Path, key: Path) -> ssl.SSLContext:
    """A server's context.

    Raises:
        OSError: The files cannot be read, or are no certificate and its key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    # A key with a passphrase would have the service ask for it on a terminal.
    context.load_cert_chain(certificate, key, password=lambda: b"")
    return context


def renew(context: ssl.SSLContext, settings: Settings) -> None:
    """Use the files as they are now for every connection that comes; what cannot be used changes nothing."""
    said = settings.serving
    assert said.tls_certificate is not None
    assert said.tls_key is not None
    certificate, key = settings.path(said.tls_certificate), settings.path(said.tls_key)
    try:
        check(certificate, key)
        context.load_cert_chain(certificate, key, password=lambda: b"")
    except (PilotError, OSError) as error:
        log.error("the certificate in use stays: %s", error)
    else:
        log.info("the certificate was read anew")


def trusting(settings: Settings, url: str) -> ssl.SSLContext | bool:
    """What a client of this very service trusts: the usual authorities, and the service's own certificate.

    Args:
        settings: The pilot's settings.
        url: The service's address; one without TLS needs no certificate.

    Raises:
        PilotError: The certificate cannot be read.
    """
    said = settings.serving
    if said.tls_certificate is None or not url.lower().startswith("https:"):
        return True
    context = ssl.create_default_context()
    certificate = settings.path(said.tls_certificate)
    _held("tls_certificate", certificate, CERTIFICATE)
    try:
        context.load_verify_locations(certificate)
    except OSError as error:
        raise _unusable("tls_certificate", certificate, _said(error)) from error
    return context


def _context(certificate: Path, key: Path, _config: object, _default: object) -> ssl.SSLContext:
    return loaded(certificate, key)


def _held(setting: str, file: Path, what: str) -> bytes:
    """A file's content, which has what its setting is for; what OpenSSL says otherwise helps nobody."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise _unusable(setting, file, _said(error)) from error
    if f"{what}-----".encode() not in content:
        raise _unusable(setting, file, f"it holds no {what.lower()} in PEM")
    return content


def _valid_now(certificate: Path, content: bytes) -> None:
    from cryptography import x509  # takes a while to import

    try:
        own = x509.load_pem_x509_certificates(content)[0]
        begins, ends = own.not_valid_before_utc, own.not_valid_after_utc
    except ValueError:
        return  # OpenSSL takes it, and it is OpenSSL that serves it
    now = datetime.now(UTC)
    if begins <= now < ends:
        return
    what = f"it expired on {ends:%Y-%m-%d}" if now >= ends else f"it is not valid before {begins:%Y-%m-%d}"
    raise PilotError(
        f"{what}, and no caller would trust it",
        where=f"pilot.toml [serving] tls_certificate, {certificate}",
        mend=f"Put a renewed one there. This machine's clock says {now:%Y-%m-%d %H:%M} UTC.",
    )


def _said(error: OSError) -> str:
    return str(getattr(error, "reason", None) or error.strerror or "no certificate and key in PEM")


def _unusable(setting: str, file: Path, why: str) -> PilotError:
    return PilotError(
        f"it cannot be used: {why}",
        where=f"pilot.toml [serving] {setting}, {file}",
        mend="Name a certificate with its chain and its private key, both PEM, which this account may read.",
    )
