"""The client at the real application, in this process; and the `caliper` command with it."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import httpx
import pytest
from django.core.signals import request_finished, request_started
from django.core.wsgi import get_wsgi_application
from django.db import close_old_connections

from caliper import Client
from tests.training.conftest import make_run, make_version  # noqa: F401 - fixtures
from webapp.accounts.models import User
from webapp.api.tokens import token_make

URL = "http://testserver"
ALL = ("read", "write", "train", "score")


@pytest.fixture
def app() -> Iterator[httpx.WSGITransport]:
    """The application, which leaves the test's database connection open behind each request."""
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    yield httpx.WSGITransport(app=get_wsgi_application())
    for signal in (request_started, request_finished):
        signal.connect(close_old_connections)


@pytest.fixture
def secret_of(db: None) -> Callable[..., str]:
    """secret_of(user) is a token with every scope; secret_of(user, "read") one with that alone."""

    def make(user: User, *scopes: str) -> str:
        return token_make(user=user, name="test", scopes=scopes or ALL, actor=user)[1]

    return make


@pytest.fixture
def client_for(app: httpx.WSGITransport, secret_of: Callable[..., str]) -> Iterator[Callable[..., Client]]:
    """client_for(user, "read") is a client with a token of theirs."""
    made: list[Client] = []

    def make(user: User, *scopes: str, **options: Any) -> Client:
        made.append(Client(URL, secret_of(user, *scopes), **{"http": app, **options}))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture
def at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Any, app: httpx.WSGITransport) -> None:
    """The `caliper` command with a home of its own, and the application in place of a network."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("CALIPER_URL", "CALIPER_TOKEN", "CALIPER_SERVER", "CALIPER_SERVER_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for module in ("common", "account"):
        monkeypatch.setattr(f"caliper.commands.{module}.Client", partial(Client, http=app))
