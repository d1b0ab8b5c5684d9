"""How a backend is reached: the CA it must be signed by, the proxy, how long is waited, and pools that end."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway import upstream
from gateway.choices import BackendFailed
from gateway.directory import Target, Transport
from gateway.models import Attempt, Backend
from gateway.requests import Dialect
from gateway.upstream import Upstream, events
from tests.gateway import wire
from tests.gateway.conftest import Lab
from tests.gateway.customers import Customer, chat, customer
from tests.gateway.scripted import DONE, HEAD, ScriptedBackend, chunk
from tests.gateway.test_dialects import EFFECT_SECONDS, asked
from tests.stack import Stack, until

ANSWER = HEAD + chunk("one", finish="stop") + DONE


def certificate() -> tuple[str, str]:
    """A certificate of 127.0.0.1 that signs itself, and its key; both PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a CA of our own")])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    return built.public_bytes(serialization.Encoding.PEM).decode(), secret.decode()


def target(base_url: str, **fields: Any) -> Target:
    return Target("gpu", base_url, None, "any", 0, 1, Dialect(), **fields)


@asynccontextmanager
async def opened(
    client: Upstream, given: Target, *, on_sent: Callable[[], None] = lambda: None
) -> AsyncIterator[aiohttp.ClientResponse]:
    options: dict[str, Any] = {"call_id": uuid.uuid4(), "attempt": 1, "patience": 5, "on_sent": on_sent}
    async with client.open(given, "/chat/completions", {"stream": True}, **options) as response:
        yield response


def run(story: Callable[[Upstream], Coroutine[Any, Any, None]]) -> None:
    async def told() -> None:
        client = Upstream()
        try:
            await story(client)
        finally:
            await client.close()

    asyncio.run(told())


@pytest.fixture
def scripted() -> Iterator[ScriptedBackend]:
    backend = ScriptedBackend()
    backend.play(chunk("one", finish="stop"), DONE)
    yield backend
    backend.stop()


def test_only_its_own_ca_vouches_for_a_backend_that_has_one(tmp_path: Path) -> None:
    pem, key = certificate()
    (tmp_path / "both.pem").write_text(pem + key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "both.pem")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ANSWER)
        await writer.drain()
        writer.close()

    async def story(client: Upstream) -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        async with server:
            async with opened(client, target(url, transport=Transport(ca_certificate=pem))) as response:
                assert len([event async for event in events(response)]) == 1
            for other in (Transport(), Transport(ca_certificate=certificate()[0])):
                with pytest.raises(BackendFailed, match="Certificate"):
                    async with opened(client, target(url, transport=other)):
                        pass

    run(story)


def test_a_proxy_is_the_way_and_is_checked_like_a_backend(settings: Any, scripted: ScriptedBackend) -> None:
    proxy = scripted.base_url.removesuffix("/v1")
    given = target("http://inference.example.test/v1", transport=Transport(proxy_url=proxy))

    async def story(client: Upstream) -> None:
        async with opened(client, given) as response:
            assert len([event async for event in events(response)]) == 1
        assert b"host: inference.example.test" in scripted.head_lines

        settings.BACKEND_NETWORKS = []
        with pytest.raises(BackendFailed):
            async with opened(client, given):
                pass

    run(story)
    assert scripted.calls == 1


def test_a_pool_that_nobody_needs_is_closed_when_its_stream_has_ended(scripted: ScriptedBackend) -> None:
    more = threading.Event()
    scripted.play(chunk("one"), more, chunk(finish="stop"), DONE)

    async def story(client: Upstream) -> None:
        async with opened(client, target(scripted.base_url)) as response:
            stream = events(response)
            await anext(stream)
            await client.keep_only(set())
            more.set()
            assert len([event async for event in stream]) == 1
        session = client._pools[Transport()].session

        await client.keep_only({Transport()})
        assert not session.closed
        await client.keep_only(set())
        assert session.closed
        assert not client._pools

    run(story)


def test_new_connections_follow_a_name_that_leads_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    leads_to, asked, resolve = ["127.0.0.1"], [], socket.getaddrinfo

    def look_up(host: Any, *rest: Any, **options: Any) -> Any:
        if host != "moving.example.test":
            return resolve(host, *rest, **options)
        asked.append(host)
        return resolve(leads_to[0], *rest, **options)

    served: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        served.append(writer.get_extra_info("sockname")[0])
        writer.write(ANSWER)
        await writer.drain()
        writer.close()

    async def story(client: Upstream) -> None:
        old = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = old.sockets[0].getsockname()[1]
        new = await asyncio.start_server(serve, "127.0.0.2", port)

        async def serves() -> str:
            async with opened(client, target(f"http://moving.example.test:{port}/v1")) as response:
                assert len([event async for event in events(response)]) == 1
            return served[-1]

        async with old, new:
            assert [await serves(), await serves()] == ["127.0.0.1"] * 2
            assert len(asked) == 1
            leads_to[0] = "127.0.0.2"
            async with asyncio.timeout(5):
                while await serves() != "127.0.0.2":
                    pass

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(upstream, "DNS_SECONDS", 1)
    run(story)


def test_who_finds_no_free_connection_in_time_goes_elsewhere_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, scripted: ScriptedBackend
) -> None:
    monkeypatch.setattr(upstream, "CONNECTIONS", 1)
    more, sent = threading.Event(), []
    scripted.play(chunk("one"), more, chunk(finish="stop"), DONE)
    full = target(scripted.base_url, connect_seconds=1)

    async def story(client: Upstream) -> None:
        async with opened(client, full) as response:
            stream = events(response)
            await anext(stream)
            with pytest.raises(BackendFailed) as failed:
                async with opened(client, full, on_sent=lambda: sent.append(True)):
                    pass
            assert failed.value.result == Attempt.Result.NO_CONNECTION  # What sends a call to the next backend.
            assert (scripted.calls, sent, client._pools[Transport()].calls) == (1, [], 1)
            more.set()
            assert len([event async for event in stream]) == 1
        async with opened(client, full) as response:
            assert len([event async for event in events(response)]) == 2
        assert client._pools[Transport()].calls == 0

    run(story)


@pytest.mark.usefixtures("committed")
class TestFirstToken:
    @pytest.fixture
    def alice(self) -> Customer:
        return customer()

    @pytest.fixture
    def theirs(self, lab: Lab) -> Iterator[Backend]:
        backend = Backend.objects.get(base_url=lab.scripted.base_url)
        yield backend
        Backend.objects.filter(pk=backend.pk).update(first_token_seconds=None, denied_parameters=[])

    def test_comments_are_no_token(self, stack: Stack, lab: Lab, alice: Customer, theirs: Backend) -> None:
        theirs.first_token_seconds, theirs.denied_parameters = 1, ["seed"]
        theirs.save()
        until(lambda: "seed" not in asked(stack, lab, alice, seed=7), EFFECT_SECONDS)
        never = threading.Event()
        lab.scripted.play(b": patience\n\n", never)

        started = time.monotonic()
        refused = wire.ask(stack.webs[0], alice.secret, chat(stream=True) | {"model": lab.of_script})

        assert (refused.status, lab.scripted.calls) == (503, 1)
        assert 1 <= time.monotonic() - started < 5
        until(lambda: lab.scripted.left_at is not None)

    def test_the_rest_of_a_stream_may_take_longer(
        self, stack: Stack, lab: Lab, alice: Customer, theirs: Backend
    ) -> None:
        theirs.first_token_seconds, theirs.denied_parameters = 1, ["seed"]
        theirs.save()
        until(lambda: "seed" not in asked(stack, lab, alice, seed=7), EFFECT_SECONDS)
        later = threading.Event()
        lab.scripted.play(chunk("one"), later, chunk(finish="stop"), DONE)
        threading.Timer(1.5, later.set).start()

        answer, got = wire.whole(stack.webs[0], alice.secret, chat(stream=True) | {"model": lab.of_script})

        assert (answer.status, got[-1]) == (200, None)
