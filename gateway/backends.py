"""What operators decide about backends: their address, their credential, and the models they serve.

A stored credential belongs to the address it was entered for, and to the way there: the proxy, and who may vouch for
the backend. It is never sent anywhere else, so whoever changes one of them enters the credential again.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from typing import TypeVar
from urllib.parse import urlsplit

from cryptography import x509
from django.db import transaction
from django.db.models import QuerySet

from billing import catalogue
from gateway import addresses, credentials
from gateway.models import Backend, Route

NAME_LENGTH = 100
ADDRESS_LENGTH = 500
BACKEND_MODEL_LENGTH = 200
CREDENTIAL_LENGTH = 4096
CERTIFICATE_LENGTH = 65_536
_HOST = re.compile(r"[a-z0-9._:-]+")  # A name, also one without a dot as containers have, or an IP address.
_VISIBLE = re.compile(r"[!-~]+")

Place = TypeVar("Place", Backend, Route)


class InvalidBackend(Exception):
    """The name, the address or the list of models cannot be used."""


class CredentialNeeded(Exception):
    """The address or the way there changes, so the stored credential must not be used."""


def save(*, name: str, base_url: str, credential: str | None, models: Mapping[str, str]) -> Backend:
    """Create the backend of this name or change it, so that it serves exactly `models` (public id -> its own name).

    Routes that stay keep their priority and weight. `credential` is as for `readdress`. Raises InvalidBackend,
    CredentialNeeded, catalogue.UnknownModels; then nothing has changed.
    """
    name = name.strip()
    if not 1 <= len(name) <= NAME_LENGTH:
        raise InvalidBackend(f"A backend needs a name of 1 to {NAME_LENGTH} characters.")
    if not models:
        raise InvalidBackend("A backend serves at least one model.")
    if any(not 1 <= len(backend_model) <= BACKEND_MODEL_LENGTH for backend_model in models.values()):
        raise InvalidBackend(f"The backend's own name of a model has 1 to {BACKEND_MODEL_LENGTH} characters.")
    base_url = checked_address(base_url)
    if not Backend.objects.filter(name=name, base_url=base_url).exists():
        check_place(base_url)
    with transaction.atomic():
        backend, _ = Backend.objects.get_or_create(name=name, defaults={"base_url": base_url})
        backend = Backend.objects.select_for_update(no_key=True).get(pk=backend.pk)
        readdress(backend, base_url=base_url, credential=credential)
        backend.save(update_fields=["base_url", "credential"])
        _serve(backend, models)
    return backend


def readdress(
    backend: Backend,
    *,
    base_url: str,
    credential: str | None,
    ca_certificate: str | None = None,
    proxy_url: str | None = None,
) -> None:
    """Set the address, the way there and the credential together; saving is the caller's, and so is `check_place`.

    `credential` None keeps the stored one, which only the same address and way allow; empty means that the backend
    needs none. None of the others keeps them as well. Raises InvalidBackend, CredentialNeeded.
    """
    base_url = checked_address(base_url)
    ca_certificate = backend.ca_certificate if ca_certificate is None else checked_certificate(ca_certificate)
    proxy_url = backend.proxy_url if proxy_url is None else checked_proxy(proxy_url)
    if credential is None and backend.credential:
        if base_url != backend.base_url:
            raise CredentialNeeded(
                "The address changes, and the stored API key is never sent to another address: enter the API key again."
            )
        if (ca_certificate, proxy_url) != (backend.ca_certificate, backend.proxy_url):
            raise CredentialNeeded(
                "The proxy or the CA certificate changes, and the stored API key never goes another way: enter the "
                "API key again."
            )
    if credential is not None:
        backend.credential = credentials.encrypt(checked_credential(credential)) if credential else None
    backend.base_url, backend.ca_certificate, backend.proxy_url = base_url, ca_certificate, proxy_url


def drain(chosen: QuerySet[Place]) -> list[Place]:
    """Give backends or routes no more calls; those that they have may finish. Returns those that took calls before.

    Every process hears of it within two seconds.
    """
    return _turn(chosen, enabled=False)


def resume(chosen: QuerySet[Place]) -> list[Place]:
    """Give them calls again. Returns those that took none before."""
    return _turn(chosen, enabled=True)


def _turn(chosen: QuerySet[Place], *, enabled: bool) -> list[Place]:
    with transaction.atomic():
        turned = list(chosen.select_for_update(no_key=True, of=("self",)).filter(enabled=not enabled).order_by("pk"))
        chosen.model.objects.filter(pk__in=[place.pk for place in turned]).update(enabled=enabled)
    return turned


def rotate_credentials() -> tuple[int, list[str]]:
    """Encrypt every credential with the first key: how many, and the names of the backends whose credential no key
    opens, which stay as they are."""
    rotated, unreadable = 0, []
    with transaction.atomic():
        for backend in Backend.objects.select_for_update(no_key=True).exclude(credential=None).order_by("pk"):
            try:
                backend.credential = credentials.encrypt(credentials.decrypt(bytes(backend.credential or b"")))
            except credentials.CredentialUnreadable:
                unreadable.append(backend.name)
                continue
            backend.save(update_fields=["credential"])
            rotated += 1
    return rotated, unreadable


def checked_address(base_url: str) -> str:
    """The address as it is stored, without a slash at its end. Raises InvalidBackend."""
    base_url = base_url.strip().rstrip("/")
    try:
        parts = urlsplit(base_url)
        usable = parts.scheme in {"http", "https"} and _HOST.fullmatch(parts.hostname or "") and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not _VISIBLE.fullmatch(base_url):
        raise InvalidBackend("The address must look like https://host:port/v1.")
    if parts.username is not None or parts.query or parts.fragment:
        raise InvalidBackend("The address must hold no user, password, query or fragment. The API key is given apart.")
    if len(base_url) > ADDRESS_LENGTH:
        raise InvalidBackend(f"The address has at most {ADDRESS_LENGTH} characters.")
    return base_url


def checked_proxy(proxy_url: str) -> str:
    """Empty means none. Raises InvalidBackend."""
    proxy_url = proxy_url.strip().rstrip("/")
    if not proxy_url:
        return ""
    try:
        parts = urlsplit(proxy_url)
        usable = parts.scheme == "http" and _HOST.fullmatch(parts.hostname or "") and parts.port and not parts.path
    except ValueError:
        usable = False
    if not usable or not _VISIBLE.fullmatch(proxy_url) or parts.query or parts.fragment:
        raise InvalidBackend("The proxy must look like http://host:port.")
    if parts.username is not None:
        raise InvalidBackend("The proxy must hold no user and password: let it know this host by its address.")
    if len(proxy_url) > ADDRESS_LENGTH:
        raise InvalidBackend(f"The proxy has at most {ADDRESS_LENGTH} characters.")
    return proxy_url


def checked_certificate(pem: str) -> str:
    """Empty means those of public CAs. Raises InvalidBackend, without repeating what was entered."""
    pem = pem.replace("\r\n", "\n").strip()
    if not pem:
        return ""
    if "PRIVATE KEY" in pem:
        raise InvalidBackend("The CA certificate holds a private key, which belongs to the CA alone.")
    try:
        if len(pem) > CERTIFICATE_LENGTH or not x509.load_pem_x509_certificates(pem.encode()):
            raise ValueError
        ssl.create_default_context(cadata=pem)
    except (ValueError, ssl.SSLError):
        raise InvalidBackend("The CA certificate must be PEM: it begins with -----BEGIN CERTIFICATE-----.") from None
    return pem


def check_place(address: str) -> None:
    """Where an address or a proxy leads. Its name is looked up, which may take two seconds: never in a transaction.

    What is no address leads nowhere. Raises InvalidBackend.
    """
    try:
        addresses.check_host(urlsplit(address.strip()).hostname or "")
    except addresses.AddressRefused as refusal:
        raise InvalidBackend(str(refusal)) from refusal
    except ValueError:
        return


def checked_credential(credential: str) -> str:
    """An HTTP header carries it, so it is visible ASCII."""
    if len(credential) > CREDENTIAL_LENGTH or not _VISIBLE.fullmatch(credential):
        raise InvalidBackend(f"An API key has at most {CREDENTIAL_LENGTH} ASCII characters and no spaces.")
    return credential


def _serve(backend: Backend, models: Mapping[str, str]) -> None:
    """Make the routes of the backend exactly these."""
    found = catalogue.find(models)
    backend.routes.exclude(model__in=found).delete()
    Route.objects.bulk_create(
        [Route(backend=backend, model=model, backend_model=models[model.public_id]) for model in found],
        update_conflicts=True,
        unique_fields=["model", "backend"],
        update_fields=["backend_model"],
    )
