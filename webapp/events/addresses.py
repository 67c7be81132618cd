"""Where a webhook may lead: addresses that the whole Internet reaches, and networks that the operator allows.

A webhook makes this server send a request to wherever somebody says. It must not reach what only this server reaches:
other programs on its machine, its private network, a cloud's metadata. A name is resolved once; every address that it
has must be allowed, and the connection goes to one of those very addresses, so that a name that answers otherwise the
next time (DNS rebinding) leads nowhere else.
"""

import ipaddress
import re
import socket
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import SplitResult, urlsplit

from django.conf import settings

from webapp.events.models import URL_LENGTH

PORTS = {"http": 80, "https": 443}

# Not global, though Python's ipaddress says so: special assignments, relays to IPv4, and Azure's own metadata.
_REFUSED = [
    ipaddress.ip_network(network)
    for network in (
        "192.0.0.0/24",
        "192.88.99.0/24",
        "168.63.129.16/32",
        "2001::/23",
        "2002::/16",
        "3fff::/20",
    )
]
_UNICAST = ipaddress.IPv6Network("2000::/3")
# IPv6 networks in whose last 32 bits stands the IPv4 address that is reached.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")

Address = IPv4Address | IPv6Address


class AddressRefused(ValueError):
    """A webhook may not lead there; the message says why, and what to do."""


def check_url(url: str) -> SplitResult:
    """The parts of an address that a webhook may have, as far as can be seen without asking. Raises AddressRefused."""
    if len(url) > URL_LENGTH:
        raise AddressRefused(f"At most {URL_LENGTH} characters: use a shorter address.")
    if not re.fullmatch(r"[!-~]+", url):
        raise AddressRefused("Use plain characters without spaces (a name in other letters: its xn--… form).")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise AddressRefused("This is no address: write it as https://HOST/PATH.") from None
    if parts.scheme not in PORTS or not host or port == 0:
        raise AddressRefused("Write it as https://HOST/PATH; only http and https are sent to.")
    if "@" in parts.netloc:
        raise AddressRefused("Leave name and password out of the address: the signature says who sends.")
    if "#" in url:
        raise AddressRefused("Leave out the part from # on: it is never sent.")
    if (literal := _literal(host)) is not None and not is_allowed(literal):
        raise _refusal(host, literal)
    return parts


def resolved(host: str, port: int) -> list[str]:
    """The addresses of a host, in the order to try them, if all of them are allowed. Raises AddressRefused, OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # A scope (%eth0) belongs to link-local addresses, which are refused in any case.
    texts = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    for text in texts:
        address = _literal(text)
        if address is None or not is_allowed(address):
            raise _refusal(host, address)
    return texts


def is_allowed(address: Address) -> bool:
    """Whether a webhook may lead there: it is global, or in one of the networks of CALIPER_WEBHOOK_PRIVATE."""
    reached = _reached(address)
    if any(reached in network for network in settings.WEBHOOK_PRIVATE):
        return True
    if reached.is_multicast or not reached.is_global or any(reached in network for network in _REFUSED):
        return False
    return reached.version == 4 or reached in _UNICAST


def _reached(address: Address) -> Address:
    """The IPv4 address within an IPv6 one that only leads to it; else the address itself."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _refusal(host: str, address: Address | None) -> AddressRefused:
    # Not which address a name has: whoever added the webhook would learn the names of a private network.
    what = f"{host} is" if _literal(host) is not None or address is None else f"{host} leads to"
    return AddressRefused(
        f"{what} an address of a private or special network, and webhooks go to public ones only. Whoever runs this "
        "installation can allow a network (CALIPER_WEBHOOK_PRIVATE)."
    )
