"""Where backends may be, and what customers may send them to: which addresses are whose.

An operator who may enter an address must not reach what only this host can: cloud metadata, its own services, its
network. A name is checked when it is entered, so that the operator is told, and every new connection is checked by the
address that it really goes to, so that a name which is answered otherwise later makes no difference.

A customer's URL of an image is fetched by the backend, if at all. One that names a place inside our networks is
refused; where a name leads to is only known there, at the moment when it is fetched.
"""

from __future__ import annotations

import re
import socket
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

from django.conf import settings

RESOLVE_SECONDS = 2
# What clouds tell their machines of themselves, secrets among it. Most of it is link-local, this is not.
_METADATA = frozenset(
    ip_address(text)
    for text in (
        "100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254", "fd00:c1::a9fe:a9fe",
    )
)  # fmt: skip
# IPv6 addresses that end in the IPv4 address they stand for: mapped, compatible, translated, NAT64.
_ENDING_IN_V4 = [ip_network(text) for text in ("::ffff:0:0/96", "::/96", "::ffff:0:0:0/96", "64:ff9b::/96")]
_LOCAL_NAT64 = ip_network("64:ff9b:1::/48")  # Global to Python 3.11, but a network gives it to itself.
_THIS_NETWORK = ip_network("0.0.0.0/8")
# Names that are known inside a network only, as those without a dot are.
_INSIDE = frozenset({"localhost", "localdomain", "local", "internal", "intranet", "lan", "home", "corp", "svc", "arpa"})
_AUTHORITY = re.compile(r"^https?://([^/?#]*)", re.IGNORECASE)
_AMBIGUOUS = re.compile(r"[\x00-\x20\x7f\\@%]")  # In an authority: parsers disagree about where the host is.
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")

_names = ThreadPoolExecutor(4, thread_name_prefix="backend-names")


class AddressRefused(Exception):
    """No backend may be there. The message says why."""


def check_host(host: str) -> None:
    """Check a name by what it stands for now. One that nobody knows is checked when it is connected to.

    Raises AddressRefused.
    """
    if _NUMBER.fullmatch(host.rpartition(".")[2]):
        check(host)  # Else 0177.1 and 2130706433 would be spellings of 127.0.0.1.
        return
    try:
        found = _names.submit(socket.getaddrinfo, host, None, type=socket.SOCK_STREAM).result(RESOLVE_SECONDS)
    except (OSError, UnicodeError, TimeoutError):
        return
    for *_, address in found:
        check(str(address[0]))


def check(text: str) -> None:
    """Check one IP address. Raises AddressRefused."""
    try:
        address = _meant(ip_address(text))
    except ValueError:
        raise AddressRefused("An IP address is written as four numbers with dots, or as IPv6.") from None
    if address in _METADATA or address.is_link_local:
        raise AddressRefused(f"{text} is link-local or a cloud's metadata, where no backend is.")
    if address.is_unspecified or address.is_multicast or _is_reserved(address):
        raise AddressRefused(f"{text} is an address that no server has.")
    private = not address.is_global or address in _LOCAL_NAT64
    if private and not any(address in network for network in settings.BACKEND_NETWORKS):
        raise AddressRefused(f"{text} is private. BACKEND_NETWORKS names the private networks that backends may be in.")


def is_outside(url: str) -> bool:
    """Whether the host of a customer's http(s) URL is, by its spelling, out in the world: no private address, no name
    of a network's own, and nothing that a backend might read as one."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna").decode().removesuffix(".")  # Digits have other letters, too.
        last = host.rpartition(".")[2]
        authority = _AUTHORITY.match(url)
        if not host or authority is None or _AMBIGUOUS.search(authority[1]):
            return False
        if ":" in host or _NUMBER.fullmatch(last):
            address = _meant(ip_address(host))  # Else 0177.1 and 2130706433 would be spellings of 127.0.0.1.
            elsewhere = address in _METADATA or address in _LOCAL_NAT64 or address.is_multicast
            return address.is_global and not elsewhere
    except ValueError:
        return False
    return "." in host and last not in _INSIDE


def _meant(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    if isinstance(address, IPv4Address) or address == IPv6Address("::1"):
        return address
    if address.sixtofour is not None:
        return address.sixtofour
    if any(address in network for network in _ENDING_IN_V4):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _is_reserved(address: IPv4Address | IPv6Address) -> bool:
    """For ever, as 240.0.0.0/4; of IPv6 Python calls much reserved that is merely not given out."""
    return isinstance(address, IPv4Address) and (address.is_reserved or address in _THIS_NETWORK)
