"""TLS by pilot.toml: version 1.2 at least, with a key that nobody else may read.

A certificate that was renewed is read on SIGHUP: one process reads it for its next connections, several are
replaced one after the other. What cannot be read leaves the old one in use.
"""

from __future__ import annotations

import logging
import ssl
import stat
from functools import partial
from pathlib import Path
from typing import Any

from harness.errors import PilotError
from harness.settings import Settings

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
        PilotError: One cannot be read, they do not belong together, or others may read the key.
    """
    try:
        mode = stat.S_IMODE(key.stat().st_mode)
    except OSError as error:
        raise _unusable("tls_key", key, error.strerror or "cannot be read") from error
    if mode & (stat.S_IWGRP | stat.S_IRWXO):
        raise PilotError(
            f"other accounts may read or change the private key (mode {mode:04o})",
            where=f"pilot.toml [serving] tls_key, {key}",
            mend=f"Run: chmod 600 {key}",
        )
    try:
        loaded(certificate, key)
    except OSError as error:  # ssl.SSLError is one
        why = getattr(error, "reason", None) or error.strerror or "no certificate and key in PEM"
        raise _unusable("tls_certificate", certificate, str(why)) from error


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


def trusting(settings: Settings) -> ssl.SSLContext | bool:
    """What a client of this very service trusts: the usual authorities, and the service's own certificate."""
    said = settings.serving
    if said.tls_certificate is None:
        return True
    context = ssl.create_default_context()
    context.load_verify_locations(settings.path(said.tls_certificate))
    return context


def _context(certificate: Path, key: Path, _config: object, _default: object) -> ssl.SSLContext:
    return loaded(certificate, key)


def _unusable(setting: str, file: Path, why: str) -> PilotError:
    return PilotError(
        f"it cannot be used: {why}",
        where=f"pilot.toml [serving] {setting}, {file}",
        mend="Name a certificate with its chain and its private key, both PEM, which this account may read.",
    )
