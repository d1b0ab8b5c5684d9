from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from tests.gateway.conftest import lab as lab
from tests.gateway.customers import Customer, customer
from tests.sdk.clients import CLIENTS, Client, Runner
from tests.stack import Stack

INSTALL_SECONDS = 900
AT_A_TIME = 3  # Installations; each keeps a core busy.


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for a `client` runs with each; `of_clients` says which of them it is about."""
    if "client" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("of_clients")
        chosen = [client for client in CLIENTS if marker is None or marker.kwargs["those"](client)]
        metafunc.parametrize("client", chosen, ids=lambda client: client.name)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test may have to install the clients."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.timeout(INSTALL_SECONDS))


@pytest.fixture(scope="session")
def runners(
    request: pytest.FixtureRequest, stack: Stack, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Runner]]]:
    """All clients of this run, installed and started at once, since some take seconds to import themselves.

    Each has been refused once when this is done, so none is importing any more while another is tested: so much work at
    once may keep a gateway from its heartbeat and from Redis, and then calls are refused for a moment.
    """
    folder = tmp_path_factory.mktemp("sdk")
    parameters = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    clients = [found["client"] for found in parameters if isinstance(found.get("client"), Client)]
    with ThreadPoolExecutor(AT_A_TIME) as starting:
        started = {
            client.name: starting.submit(Runner, client, folder / f"{client.name}.log")
            for client in dict.fromkeys(clients)
            if not client.missing
        }
    for runner in started.values():
        if runner.exception() is None:
            with suppress(AssertionError):  # One that does not run is told by its own tests.
                runner.result().try_to("chat", base_url=stack.api_base, key="nobody", text="Hello")
    for web in stack.webs:
        web.wait_until_ready()
    yield started
    for runner in started.values():
        if runner.exception() is None:
            runner.result().stop()


@pytest.fixture
def runner(runners: dict[str, Future[Runner]], client: Client) -> Runner:
    if client.missing:
        pytest.skip(f"{client.name}: {'; '.join(client.missing)}")
    return runners[client.name].result()


@pytest.fixture
def alice(committed: None) -> Customer:
    return customer()


@pytest.fixture
def base_url(stack: Stack) -> str:
    return stack.api_base
