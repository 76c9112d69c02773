"""The headers that every answer bears; harness.serving.door says why, and puts them there."""

from __future__ import annotations

from typing import TypeAlias

Header: TypeAlias = tuple[bytes, bytes]
Headers: TypeAlias = tuple[Header, ...]

# With a certificate that is renewed too late it locks callers out, so it holds for a year and no subdomain.
HSTS = (b"strict-transport-security", b"max-age=31536000")
HEADERS: Headers = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
PLAIN = {name.decode(): value.decode() for name, value in HEADERS}
