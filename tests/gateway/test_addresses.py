"""Where a backend may be, said when its address is entered and again at every connection."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from ipaddress import ip_network
from typing import Any

import pytest

from gateway import addresses, backends
from gateway.choices import BackendFailed
from gateway.directory import Target
from gateway.requests import Dialect
from gateway.upstream import Upstream, events
from tests.gateway.scripted import DONE, ScriptedBackend, chunk

NOWHERE = [
    "0.0.0.0",  # noqa: S104  # Nothing is bound to it.
    "0.1.2.3",
    "169.254.169.254",
    "169.254.0.1",
    "100.100.100.200",
    "168.63.129.16",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "fe80::1",
    "ff02::1",
    "fd00:ec2::254",
    "::ffff:169.254.169.254",
    "::ffff:a9fe:a9fe",
    "::169.254.169.254",
    "64:ff9b::169.254.169.254",
    "2002:a9fe:a9fe::1",
]
PRIVATE = [
    "127.0.0.1",
    "127.8.8.8",
    "10.0.0.7",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "::1",
    "fd12:3456::1",
    "::ffff:127.0.0.1",
    "::127.0.0.1",
    "64:ff9b::10.0.0.1",
    "64:ff9b:1::1",
    "2002:7f00:1::1",
]
PUBLIC = ["93.184.216.34", "2606:4700::1111", "64:ff9b::93.184.216.34"]
SPELLINGS = ["2130706433", "017700000001", "0177.0.0.1", "127.1", "0x7f000001", "0x7f.0.0.1", "127.0.0.1.0x"]
LOOPBACK = ["localhost", "127.0.0.1", "[::ffff:127.0.0.1]"]


@pytest.mark.parametrize("address", [*NOWHERE, *SPELLINGS])
def test_where_no_backend_is_none_can_be_allowed(settings: Any, address: str) -> None:
    settings.BACKEND_NETWORKS = [ip_network("0.0.0.0/0"), ip_network("::/0")]

    with pytest.raises(addresses.AddressRefused):
        addresses.check(address)
    with pytest.raises(addresses.AddressRefused):
        addresses.check_host(address)


@pytest.mark.parametrize("address", [*PRIVATE, "localhost"])
def test_a_private_address_must_be_allowed(settings: Any, address: str) -> None:
    settings.BACKEND_NETWORKS = []
    with pytest.raises(addresses.AddressRefused, match="BACKEND_NETWORKS"):
        addresses.check_host(address)

    settings.BACKEND_NETWORKS = [ip_network("0.0.0.0/0"), ip_network("::/0")]
    addresses.check_host(address)


def test_one_private_network_is_allowed_and_not_the_next(settings: Any) -> None:
    settings.BACKEND_NETWORKS = [ip_network("10.1.0.0/16")]

    addresses.check("10.1.2.3")
    addresses.check("::ffff:10.1.2.3")
    with pytest.raises(addresses.AddressRefused):
        addresses.check("10.2.2.3")


@pytest.mark.parametrize("address", [*PUBLIC, "nobody-knows-it.example.test"])
def test_a_public_address_needs_no_allowance(settings: Any, address: str) -> None:
    settings.BACKEND_NETWORKS = []

    addresses.check_host(address)


@pytest.mark.django_db
class TestSave:
    @pytest.mark.parametrize("host", ["169.254.169.254", "127.1", "2130706433", "[::ffff:169.254.169.254]"])
    def test_such_an_address_is_not_stored(self, host: str) -> None:
        with pytest.raises(backends.InvalidBackend):
            backends.save(name="gpu", base_url=f"http://{host}/v1", credential="", models={"glm-5": "glm-5"})

    def test_what_is_stored_can_be_changed_otherwise_when_less_is_allowed(self, settings: Any) -> None:
        given: dict[str, Any] = {"name": "gpu", "base_url": "http://10.0.0.7/v1", "models": {"glm-5": "glm-5"}}
        backends.save(**given, credential="sk-1")
        settings.BACKEND_NETWORKS = []

        backends.save(**given, credential="sk-2")


@pytest.fixture
def scripted() -> Iterator[ScriptedBackend]:
    backend = ScriptedBackend()
    backend.play(chunk("one", finish="stop"), DONE)
    yield backend
    backend.stop()


def call(base_url: str) -> int:
    """How many events came."""

    async def opened() -> int:
        client = Upstream()
        target = Target("gpu", base_url, None, "any", 0, 1, Dialect())
        given: dict[str, Any] = {"call_id": uuid.uuid4(), "attempt": 1, "patience": 5, "on_sent": lambda: None}
        try:
            async with client.open(target, "/chat/completions", {"stream": True}, **given) as response:
                return len([event async for event in events(response)])
        finally:
            await client.close()

    return asyncio.run(opened())


@pytest.mark.parametrize("host", LOOPBACK[:2])
def test_a_connection_goes_where_a_backend_may_be(scripted: ScriptedBackend, host: str) -> None:
    assert call(scripted.base_url.replace("127.0.0.1", host)) == 1


@pytest.mark.parametrize("host", [*LOOPBACK, *SPELLINGS[:-1]])
def test_no_connection_goes_elsewhere_whatever_was_stored(settings: Any, scripted: ScriptedBackend, host: str) -> None:
    settings.BACKEND_NETWORKS = []

    with pytest.raises(BackendFailed):
        call(scripted.base_url.replace("127.0.0.1", host))

    assert scripted.calls == 0


INSIDE_NAMES = [
    "localhost",
    "localhost.",
    "LocalHost",
    "redis",
    "db.local",
    "metadata.google.internal",
    "a.default.svc",
]
# What some parser reads as a host of the inside, and another does not.
TRICKS = [
    "http://example.com@127.0.0.1/a.png",
    "http://127.0.0.1:80@example.com/a.png",
    "http://example.com\\@127.0.0.1/a.png",
    "http://127.0.0.1\t.example.com/a.png",
    "http://127.0.0.1%2f.example.com/a.png",
    "http://%31%32%37.0.0.1/a.png",
    "http:///127.0.0.1/a.png",
    "http:////127.0.0.1/a.png",
    "http://?127.0.0.1/a.png",
    "http://[::1/a.png",
    "http://\uff11\uff12\uff17.0.0.1/a.png",
    "http://127\u30020\u30020\u30021/a.png",
    "http://",
]


@pytest.mark.parametrize("address", [*NOWHERE, *PRIVATE, *SPELLINGS, *INSIDE_NAMES])
@pytest.mark.parametrize("form", ["http://{}/a.png", "https://{}:8443", "http://{}?a=b"])
def test_a_customers_url_that_points_into_a_network_is_not_outside(address: str, form: str) -> None:
    assert not addresses.is_outside(form.format(f"[{address}]" if ":" in address else address))


@pytest.mark.parametrize("url", TRICKS)
def test_a_customers_url_that_may_be_read_in_two_ways_is_not_outside(url: str) -> None:
    assert not addresses.is_outside(url)


@pytest.mark.parametrize(
    "host", [*PUBLIC, "example.com", "example.com.", "EXAMPLE.com", "b\u00fccher.example", "x.co:81"]
)
def test_a_customers_url_of_the_public_internet_is_outside(host: str) -> None:
    shown = f"[{host}]" if host.count(":") > 1 else host
    assert addresses.is_outside(f"https://{shown}/a@b%20c.png?at=user@here#\\")
