from __future__ import annotations

import io
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.core.management import CommandError, call_command

from billing.catalogue import UnknownModels
from gateway import backends, credentials
from gateway.models import Backend, Route
from tests import factories
from tests.gateway.test_transport import certificate

pytestmark = pytest.mark.django_db

HERE = "https://inference.example.test/v1"
ELSEWHERE = "https://elsewhere.example.test/v1"
MODELS = {"deepseek-v4-flash": "flash", "deepseek-v4-pro": "deepseek-v4-pro"}


def save(**changes: Any) -> Backend:
    given = {"name": "gpu-1", "base_url": HERE, "credential": "sk-1", "models": MODELS}
    return backends.save(**{**given, **changes})


def routes_of(backend: Backend) -> dict[str, str]:
    return dict(backend.routes.values_list("model__public_id", "backend_model"))


def credential_of(backend: Backend) -> str:
    backend.refresh_from_db()
    assert backend.credential is not None
    return credentials.decrypt(bytes(backend.credential))


class TestSave:
    def test_it_makes_a_backend_with_its_routes(self) -> None:
        backend = save()

        assert (backend.name, backend.base_url, backend.enabled) == ("gpu-1", HERE, True)
        assert routes_of(backend) == MODELS

    def test_the_credential_is_stored_encrypted(self) -> None:
        backend = save(credential="sk-1")

        backend.refresh_from_db()
        assert b"sk-1" not in bytes(backend.credential or b"")
        assert credential_of(backend) == "sk-1"

    def test_saving_again_changes_the_same_backend(self) -> None:
        first = save()

        again = save(credential="sk-2", models={"glm-5": "glm-5"})

        assert again.pk == first.pk
        assert credential_of(again) == "sk-2"
        assert routes_of(again) == {"glm-5": "glm-5"}

    def test_routes_that_stay_keep_what_operators_set(self) -> None:
        backend = save()
        Route.objects.filter(backend=backend, model__public_id="deepseek-v4-flash").update(
            priority=3, weight=7, enabled=False
        )

        save(models={"deepseek-v4-flash": "renamed"})

        route = backend.routes.get()
        assert (route.backend_model, route.priority, route.weight, route.enabled) == ("renamed", 3, 7, False)

    def test_a_disabled_backend_stays_disabled(self) -> None:
        backend = save()
        Backend.objects.filter(pk=backend.pk).update(enabled=False)

        assert save().enabled is False

    def test_unknown_models_change_nothing(self) -> None:
        backend = save()

        with pytest.raises(UnknownModels, match=r"Unknown models: nope-1, nope-2\."):
            save(base_url=ELSEWHERE, credential="sk-2", models={"nope-2": "x", "nope-1": "y", "glm-5": "glm-5"})

        backend.refresh_from_db()
        assert backend.base_url == HERE
        assert routes_of(backend) == MODELS

    def test_a_backend_that_cannot_be_made_is_not_half_made(self) -> None:
        with pytest.raises(UnknownModels):
            save(name="gpu-2", models={"nope": "nope"})

        assert not Backend.objects.filter(name="gpu-2").exists()

    def test_the_slash_at_the_end_is_dropped(self) -> None:
        assert save(base_url=HERE + "/").base_url == HERE


class TestTheCredentialStaysWithItsAddress:
    def test_it_stays_while_the_address_stays(self) -> None:
        save(credential="sk-1")

        assert credential_of(save(credential=None)) == "sk-1"

    @pytest.mark.parametrize(
        "address",
        [ELSEWHERE, "http://inference.example.test/v1", "https://inference.example.test:8443/v1", HERE + "/other"],
    )
    def test_another_address_needs_it_again(self, address: str) -> None:
        backend = save(credential="sk-1")

        with pytest.raises(backends.CredentialNeeded, match="never sent to another address"):
            save(base_url=address, credential=None)

        backend.refresh_from_db()
        assert backend.base_url == HERE
        assert credential_of(backend) == "sk-1"

    def test_another_address_with_its_own_credential(self) -> None:
        save(credential="sk-1")

        backend = save(base_url=ELSEWHERE, credential="sk-2")

        assert backend.base_url == ELSEWHERE
        assert credential_of(backend) == "sk-2"

    @pytest.mark.parametrize("way", [{"proxy_url": "http://proxy:3128"}, {"ca_certificate": certificate()[0]}])
    def test_another_way_there_needs_it_again(self, way: dict[str, str]) -> None:
        backend = save(credential="sk-1")

        with pytest.raises(backends.CredentialNeeded, match="never goes another way"):
            backends.readdress(backend, base_url=HERE, credential=None, **way)
        backends.readdress(backend, base_url=HERE, credential="sk-2", **way)
        backends.readdress(backend, base_url=HERE, credential=None)

        backend.save()
        assert credential_of(backend) == "sk-2"
        assert (backend.proxy_url or backend.ca_certificate.strip()) == next(iter(way.values())).strip()

    def test_another_address_without_any(self) -> None:
        save(credential="sk-1")

        backend = save(base_url=ELSEWHERE, credential="")

        backend.refresh_from_db()
        assert (backend.base_url, backend.credential) == (ELSEWHERE, None)

    def test_where_none_is_stored_the_address_may_change(self) -> None:
        save(credential="")

        assert save(base_url=ELSEWHERE, credential=None).base_url == ELSEWHERE


@pytest.mark.parametrize(
    "address",
    [
        "",
        "inference.example.test/v1",
        "ftp://inference.example.test/v1",
        "https://",
        "https:///v1",
        "https://inference.example.test:0/v1",
        "https://inference.example.test:99999/v1",
        "https://inference.example.test:port/v1",
        "https://[::1/v1",
        "https://two words.test/v1",
        "https://inference.example.test/v1\nHost: x",
        "https://a\\b/v1",
        "https://user:secret@inference.example.test/v1",
        "https://inference.example.test/v1?key=secret",
        "https://inference.example.test/v1#part",
        "https://inference.example.test/" + "v" * 500,
    ],
)
def test_what_is_no_address_is_refused_without_repeating_it(address: str) -> None:
    with pytest.raises(backends.InvalidBackend) as refused:
        save(base_url=address)

    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("address", ["http://vllm:8000/v1", "http://10.0.0.7:8000", "http://[::1]:8000/v1"])
def test_names_without_a_dot_and_ip_addresses_are_addresses(address: str) -> None:
    assert save(base_url=address).base_url == address


@pytest.mark.parametrize(
    "changes",
    [
        {"name": ""},
        {"name": "x" * 101},
        {"models": {}},
        {"models": {"glm-5": ""}},
        {"models": {"glm-5": "x" * 201}},
        {"credential": "two words"},
        {"credential": "sk-1\r\nX-Other: 1"},
        {"credential": "schlüssel"},
        {"credential": "x" * 5000},
    ],
)
def test_what_cannot_be_used_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(backends.InvalidBackend):
        save(**changes)


@pytest.mark.parametrize(
    "proxy",
    ["proxy:3128", "https://proxy:3128", "http://proxy", "http://proxy:3128/x", "http://proxy:3128?x", "http://:1",
     "http://user:secret@proxy:3128", "socks5://proxy:1080"],
)  # fmt: skip
def test_what_is_no_proxy_is_refused_without_repeating_it(proxy: str) -> None:
    with pytest.raises(backends.InvalidBackend) as refused:
        backends.readdress(Backend(), base_url=HERE, credential=None, proxy_url=proxy)

    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("address", ["http://169.254.169.254:80", " http://127.1/v1 ", "https://[::ffff:10.0.0.1]/v1"])
def test_what_leads_where_no_backend_may_be_is_refused(address: str, settings: Any) -> None:
    settings.BACKEND_NETWORKS = []
    with pytest.raises(backends.InvalidBackend):
        backends.check_place(address)


@pytest.mark.parametrize("address", ["", "nowhere", "http://[::1", "https://gpu.example.test/v1"])
def test_what_leads_nowhere_yet_is_not_refused(address: str) -> None:
    backends.check_place(address)


@pytest.mark.parametrize(
    "pem", ["x", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", *certificate()[1:]]
)
def test_what_is_no_certificate_is_refused_without_repeating_it(pem: str) -> None:
    with pytest.raises(backends.InvalidBackend, match="The CA certificate") as refused:
        backends.readdress(Backend(), base_url=HERE, credential=None, ca_certificate=pem)

    assert pem not in str(refused.value).split()


class TestAddBackend:
    def run(self, *arguments: str) -> str:
        out = io.StringIO()
        call_command("add_backend", *arguments, stdout=out)
        return out.getvalue()

    def test_it_adds_a_backend(self) -> None:
        name = factories.unique("gpu")

        out = self.run(name, HERE, "--api-key", "sk-secret", "--models", "glm-5, deepseek-v4-flash = flash")

        backend = Backend.objects.get(name=name)
        assert routes_of(backend) == {"glm-5": "glm-5", "deepseek-v4-flash": "flash"}
        assert credential_of(backend) == "sk-secret"
        assert out == f"Backend {name} at {HERE}, with an API key: glm-5, deepseek-v4-flash.\n"

    def test_the_key_can_come_from_the_input(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO("sk-secret\n"))
        name = factories.unique("gpu")

        self.run(name, HERE, "--api-key", "-", "--models", "glm-5")

        assert credential_of(Backend.objects.get(name=name)) == "sk-secret"

    def test_another_address_without_the_key_is_refused_with_the_way_out(self) -> None:
        name = factories.unique("gpu")
        self.run(name, HERE, "--api-key", "sk-secret", "--models", "glm-5")

        with pytest.raises(CommandError, match=r"enter the API key again\. Use --api-key"):
            self.run(name, ELSEWHERE, "--models", "glm-5")

    def test_unknown_models_are_listed(self) -> None:
        with pytest.raises(CommandError, match=r"Unknown models: nope\. The catalogue has: .*glm-5"):
            self.run("gpu", HERE, "--models", "glm-5,nope")

    @pytest.mark.parametrize("models", ["", "glm-5,", ",", "glm-5=", "=x"])
    def test_a_list_with_holes_is_refused(self, models: str) -> None:
        with pytest.raises(CommandError, match="write the ids with commas between them"):
            self.run("gpu", HERE, f"--models={models}")

    def test_a_model_that_is_there_twice_is_refused(self) -> None:
        with pytest.raises(CommandError, match="glm-5 is there twice"):
            self.run("gpu", HERE, "--models", "glm-5,glm-5=other")

    def test_what_is_no_address_is_refused(self) -> None:
        with pytest.raises(CommandError, match="must look like https://host:port/v1"):
            self.run("gpu", "nowhere", "--models", "glm-5")

    def test_the_models_are_needed(self) -> None:
        with pytest.raises(CommandError, match="required: --models"):
            self.run("gpu", HERE)

    def test_it_has_help(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as ended:
            call_command("add_backend", "--help")

        assert ended.value.code == 0
        assert "--api-key" in capsys.readouterr().out


class TestRotateCredentials:
    def test_the_first_key_alone_opens_everything_afterwards(self, settings: Any) -> None:
        old, new = Fernet.generate_key(), Fernet.generate_key()
        Backend.objects.exclude(credential=None).update(credential=None)
        settings.CREDENTIAL_KEYS = [old]
        backend, without = save(), save(name="gpu-2", credential="")
        settings.CREDENTIAL_KEYS = [new, old]

        out = io.StringIO()
        call_command("rotate_credentials", stdout=out)

        settings.CREDENTIAL_KEYS = [new]
        assert credential_of(backend) == "sk-1"
        without.refresh_from_db()
        assert without.credential is None
        assert out.getvalue() == "1 API keys are encrypted with the first key.\n"

    def test_what_no_key_opens_is_named_and_stays(self, settings: Any) -> None:
        Backend.objects.exclude(credential=None).update(credential=None)
        backend = save()
        before = bytes(backend.credential or b"")
        settings.CREDENTIAL_KEYS = [Fernet.generate_key()]
        readable = save(name="gpu-2", credential="sk-2")

        with pytest.raises(CommandError, match=r"gpu-1\. Enter them again"):
            call_command("rotate_credentials", stdout=io.StringIO())

        backend.refresh_from_db()
        assert bytes(backend.credential or b"") == before
        assert credential_of(readable) == "sk-2"
