"""Mistakes with certificates, an identity provider, limits of callers, and the load test."""

from __future__ import annotations

import json
from collections.abc import Callable

from certificates import certified
from mistakes.options import wrote
from mistakes.planted import Mistake, Pilot, appended, edited

SERVE, STATUS = ("serve", "--port", "0"), ("status",)
ISSUER = """
[serving.oidc]
issuer = "https://login.example.org"
audience = "late-payment"
jwks_url = "https://login.example.org/keys"
"""
SCOPES = """[serving.oidc.scopes]
"payments.decide" = ["decide"]
"""


def certificate(pilot: Pilot) -> None:
    certified(pilot.root)


def anothers(pilot: Pilot) -> None:
    certified(pilot.root, file="other")


def with_tls(pem: str = "tls.pem", key: str = "tls.key") -> Callable[[Pilot], None]:
    both = f'tls_certificate = "{pem}"\ntls_key = "{key}"'
    return edited("pilot.toml", "port = 8080", f"port = 8080\n{both}")


def after(*made: Callable[[Pilot], None]) -> Callable[[Pilot], None]:
    def make(pilot: Pilot) -> None:
        for each in made:
            each(pilot)

    return make


def old(pilot: Pilot) -> None:
    certified(pilot.root, days=(-90, -1))


def locked(pilot: Pilot) -> None:
    certified(pilot.root, passphrase=b"known to somebody")


def open_to_all(pilot: Pilot) -> None:
    (pilot.root / "tls.key").chmod(0o644)


def tls(title: str, says: tuple[str, ...], *made: Callable[[Pilot], None]) -> Mistake:
    return Mistake(title, SERVE, says, after(*made), here=True)


def known(title: str, says: tuple[str, ...], text: str, *made: Callable[[Pilot], None]) -> Mistake:
    return Mistake(title, SERVE, says, after(appended("pilot.toml", text), *made), here=True)


def limited(title: str, line: str, *says: str) -> Mistake:
    return Mistake(
        title, STATUS, says, edited("pilot.toml", "port = 8080", f"port = 8080\n{line}"), here=True
    )


def loaded(title: str, options: tuple[str, ...], *says: str) -> Mistake:
    return Mistake(title, ("load", *options), says, wrote("file", ""), here=True)


FILE = ISSUER.replace('jwks_url = "https://login.example.org/keys"', 'jwks_file = "keys.json"')

MISTAKES = (
    tls(
        "a certificate without its key",
        ("pilot.toml: 'serving': tls_certificate and tls_key are named together",),
        certificate,
        edited("pilot.toml", "port = 8080", 'port = 8080\ntls_certificate = "tls.pem"'),
    ),
    tls(
        "a certificate that is not there",
        ("[serving] tls_certificate", "no.pem: it cannot be used: No such file", "Name a certificate"),
        certificate,
        with_tls("no.pem"),
    ),
    tls(
        "a certificate that has expired",
        ("[serving] tls_certificate", "tls.pem: it expired on", "Put a renewed one there", "clock says"),
        old,
        with_tls(),
    ),
    tls(
        "certificate and key the wrong way round",
        ("[serving] tls_certificate", "tls.key: it cannot be used: it holds no certificate in PEM", "Name"),
        certificate,
        with_tls("tls.key", "tls.pem"),
    ),
    tls(
        "the key of another certificate",
        ("[serving] tls_key", "other.key: this private key does not belong", "tls.pem", "Name the key"),
        certificate,
        anothers,
        with_tls(key="other.key"),
    ),
    tls(
        "a private key that every account may read",
        ("[serving] tls_key", "other accounts may read or change the private key", "Run: chmod 600"),
        certificate,
        open_to_all,
        with_tls(),
    ),
    tls(
        "a private key with a passphrase",
        ("[serving] tls_key", "the private key has a passphrase", "Name one without: openssl pkey"),
        locked,
        with_tls(),
    ),
    tls(
        "a folder in the place of the private key",
        ("[serving] tls_key", "src: it cannot be used: Is a directory", "Name a certificate"),
        certificate,
        with_tls(key="src"),
    ),
    Mistake(
        "a decision where the service's certificate is not there",
        ("decide", "record.json"),
        ("[serving] tls_certificate", "tls.pem: it cannot be used: No such file", "Name a certificate"),
        after(wrote("record.json", "{}"), with_tls()),
        here=True,
    ),
    known(
        "an issuer's keys by http from elsewhere",
        ("pilot.toml [serving]: 'oidc': jwks_url begins with https://, or http:// on this machine",),
        (ISSUER + SCOPES).replace("https://login.example.org/keys", "http://login.example.org/keys"),
    ),
    known(
        "an issuer's keys from two places",
        ("pilot.toml [serving]: 'oidc': name jwks_url or jwks_file, and not both",),
        f'{ISSUER}jwks_file = "keys.json"\n{SCOPES}',
    ),
    known(
        "tokens that whoever reads them could sign",
        ("pilot.toml [serving.oidc]: 'algorithms': input should be 'RS256'", "Correct it"),
        f'{ISSUER}algorithms = ["HS256"]\n{SCOPES}',
    ),
    known(
        "an algorithm that is no list",
        ("pilot.toml [serving.oidc]: 'algorithms': input should be a list", "Correct it"),
        f'{ISSUER}algorithms = "RS256"\n{SCOPES}',
    ),
    known(
        "an issuer whose words allow nothing",
        ("pilot.toml [serving.oidc]: 'scopes' is missing", "Add it"),
        ISSUER,
    ),
    known(
        "an issuer's word for a scope that there is not",
        ("[serving.oidc.scopes]: 'payments.decide': input should be 'decide', 'outcomes'", "Correct it"),
        (ISSUER + SCOPES).replace('["decide"]', '["decides"]'),
    ),
    known(
        "a file of an issuer's keys that is not there",
        (
            "[serving.oidc] jwks_file",
            "keys.json: it cannot be read: No such file",
            "Put the issuer's JWKS there",
        ),
        FILE + SCOPES,
    ),
    known(
        "a file of an issuer's keys with a shared secret",
        ("[serving.oidc] jwks_file", "keys.json: it holds no public key", "Put the issuer's JWKS there"),
        FILE + SCOPES,
        wrote("keys.json", json.dumps({"keys": [{"kty": "oct", "k": "c2VjcmV0"}]})),
    ),
    limited(
        "a limit of requests below zero",
        "rate_per_s = -1",
        "pilot.toml [serving]: 'rate_per_s': input should be greater than or equal to 0",
    ),
    limited(
        "a burst of requests without a rate",
        "burst = 20",
        "pilot.toml: 'serving': burst limits nobody without rate_per_s; set both",
    ),
    limited(
        "half the name of the limit of requests",
        "rate = 20",
        "pilot.toml [serving]: unknown key 'rate'. Did you mean 'rate_per_s'?",
    ),
    Mistake(
        "a load of no requests",
        ("load",),
        ("pilot.toml [slo]: 'rate_per_s': input should be greater than 0", "Correct it"),
        edited("pilot.toml", "rate_per_s = 50", "rate_per_s = 0"),
        here=True,
    ),
    loaded(
        "a load for no time", ("--seconds", "0"), "--seconds", "greater than or equal to 1", "`pilot --help`"
    ),
    loaded(
        "a load that would take half an hour",
        ("--seconds", "600", "--step", "60"),
        "--seconds, --step: this could take",
        "hold the steps for less",
    ),
    loaded(
        "a load on an address that is none",
        ("--url", "http://[::1"),
        "--url: 'http://[::1' is no address",
        "Write it as http://host:port",
    ),
    loaded(
        "a load on a service that is not there",
        ("--url", "http://127.0.0.1:1"),
        "http://127.0.0.1:1: no service of a pilot answers",
        "Connection refused",
        "Start it with `pilot serve`",
    ),
    loaded(
        "a load on another machine",
        ("--url", "http://service.example.org"),
        "--url: service.example.org is another machine",
        "--i-may-load service.example.org",
    ),
    loaded(
        "a load with workers for a service that runs already",
        ("--url", "http://127.0.0.1:1", "--workers", "2"),
        "--workers: a service that runs already has its workers",
        "Leave --workers out",
    ),
    loaded(
        "a page of a load where none can be written",
        ("--html", "file/load.html"),
        "--html file/load.html: no page can be written there: Not a directory",
        "Name a file in a folder",
    ),
    Mistake(
        "a decision from an address that is none",
        ("decide", "record.json", "--url", "127.0.0.1:8080"),
        ("127.0.0.1:8080: it is no address", "Write it as http://host:port"),
        wrote("record.json", "{}"),
        here=True,
    ),
)
