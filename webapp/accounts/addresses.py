"""Where a request comes from."""

import ipaddress

from django.conf import settings
from django.http import HttpRequest

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def client_address(request: HttpRequest) -> Address | None:
    """The address of whoever asks; None where it is not known (a Unix socket).

    Only behind a proxy is X-Forwarded-For believed, and of it only the last entry: that one the proxy wrote, those
    before it are whatever the client sent.
    """
    given = str(request.META.get("REMOTE_ADDR", ""))
    if settings.BEHIND_TLS and (forwarded := request.headers.get("X-Forwarded-For")):
        given = forwarded.rpartition(",")[2].strip()
    try:
        address = ipaddress.ip_address(given)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def counted_address(request: HttpRequest) -> str | None:
    """The address that failures are counted by: of IPv6 the /64, since one subscriber has all addresses of it."""
    address = client_address(request)
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False).network_address)
    return str(address) if address else None


def is_this_machine(request: HttpRequest) -> bool:
    """Asked from this machine itself, not through a proxy that runs on it."""
    if "X-Forwarded-For" in request.headers or "Forwarded" in request.headers:
        return False
    address = client_address(request)
    return address is not None and address.is_loopback
