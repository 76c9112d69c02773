"""Which addresses are this machine's own, and why nobody answers at one."""

from __future__ import annotations

import ipaddress

from harness.errors import PilotError


def loopback(host: str) -> bool:
    """Whether a host reaches this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def unanswered(url: str, error: Exception, *, mend: str, what: str = "no service answers") -> PilotError:
    """What to say of a request that got no answer.

    Args:
        url: The address that was asked.
        error: What httpx raised.
        mend: What to do where nothing is known to listen there.
        what: What is said then.
    """
    said = str(error).rstrip(".") or type(error).__name__
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if kinds & {"InvalidURL", "UnsupportedProtocol"}:
        return PilotError("it is no address", where=url, mend="Write it as http://host:port.")
    if "CERTIFICATE_VERIFY_FAILED" in said:
        why = said.partition("certificate verify failed: ")[2].partition(" (_ssl")[0] or said
        return PilotError(
            f"the certificate of what answers there is not trusted ({why})",
            where=url,
            mend="Name that certificate in pilot.toml [serving] tls_certificate, and in the address a host "
            "for which it was issued.",
        )
    if "WRONG_VERSION_NUMBER" in said:
        return PilotError("what answers there speaks no TLS", where=url, mend="Write http://.")
    if url.startswith("http://") and kinds & {"RemoteProtocolError", "ReadError"}:
        return PilotError(
            f"what answers there speaks no plain HTTP ({said})",
            where=url,
            mend="If it has TLS, write https://.",
        )
    return PilotError(f"{what} ({said})", where=url, mend=mend)
