"""The way to the provider and back. Whatever it says that is not usable ends in the page for a failed sign-in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from allauth.account.internal.decorators import login_not_required
from allauth.core.exceptions import ImmediateHttpResponse
from allauth.socialaccount.helpers import render_authentication_error
from allauth.socialaccount.models import SocialApp, SocialLogin, SocialToken
from allauth.socialaccount.providers.base import ProviderException
from allauth.socialaccount.providers.oauth2.views import OAuth2CallbackView, OAuth2LoginView
from allauth.socialaccount.providers.openid_connect.views import OpenIDConnectOAuth2Adapter
from django.core.exceptions import ImproperlyConfigured
from django.http import Http404, HttpRequest, HttpResponse
from requests import RequestException

NEEDED = {"issuer", "authorization_endpoint", "token_endpoint", "jwks_uri", "userinfo_endpoint"}
# What allauth's readers raise when the other side's JSON is not what they expect.
RUBBISH = (AttributeError, ImproperlyConfigured, LookupError, TypeError, ValueError)


class Adapter(OpenIDConnectOAuth2Adapter):  # type: ignore[misc]  # allauth is not typed.
    @property
    def openid_config(self) -> dict[str, Any]:
        try:
            config: dict[str, Any] = super().openid_config
            if missing := NEEDED - config.keys():
                raise ProviderException(f"The discovery document lacks {', '.join(sorted(missing))}.")
        except (RequestException, ProviderException, *RUBBISH) as fault:
            page = render_authentication_error(self.request, self.get_provider(), exception=fault)
            raise ImmediateHttpResponse(page) from fault
        return config

    def complete_login(self, request: HttpRequest, app: SocialApp, token: SocialToken, **kwargs: Any) -> SocialLogin:
        # allauth skips the signature of a token that came over TLS. Looking costs one request, and then it need not be
        # true that every hop between the provider and us is as safe as that.
        self.did_fetch_access_token = False
        with _readable():
            login = super().complete_login(request, app, token, **kwargs)
            said = login.account.extra_data
            if said["id_token"]["sub"] != said["userinfo"]["sub"]:
                raise ProviderException("The userinfo is about somebody else.")
        return login

    def get_access_token_data(self, *args: Any, **kwargs: Any) -> Any:
        with _readable():
            return super().get_access_token_data(*args, **kwargs)

    def parse_token(self, data: Any) -> SocialToken:
        with _readable():
            return super().parse_token(data)


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except RequestException:
        raise  # Some of them are a ValueError, too.
    except RUBBISH as fault:
        raise ProviderException(f"The answer cannot be read: {fault!r}") from fault


@login_not_required  # type: ignore[untyped-decorator]
def login(request: HttpRequest, provider_id: str) -> HttpResponse:
    return _answer(OAuth2LoginView, request, provider_id)


@login_not_required  # type: ignore[untyped-decorator]
def callback(request: HttpRequest, provider_id: str) -> HttpResponse:
    return _answer(OAuth2CallbackView, request, provider_id)


def _answer(view: Any, request: HttpRequest, provider_id: str) -> HttpResponse:
    try:
        response: HttpResponse = view.adapter_view(Adapter(request, provider_id))(request)
    except SocialApp.DoesNotExist:
        raise Http404 from None
    return response
