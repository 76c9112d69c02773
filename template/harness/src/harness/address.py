"""Which addresses are this machine's own."""

from __future__ import annotations

import ipaddress


def loopback(host: str) -> bool:
    """Whether a host reaches this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
