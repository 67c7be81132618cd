"""`manage.py reward_server`: a token of its own, and no secret of Caliper's, for the process that it becomes."""

import os

import pytest
from django.core.management import CommandError, call_command

from webapp.accounts.models import ApiToken, User
from webapp.corpus.models import Project

pytestmark = [pytest.mark.django_db, pytest.mark.one_database]


class Became(Exception):
    """In place of another program."""


def test_it_becomes_the_server_with_a_new_token(
    project: Project, admin: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[list[str], dict[str, str]]] = []

    def execve(path: str, command: list[str], environment: dict[str, str]) -> None:
        started.append((command, environment))
        raise Became

    monkeypatch.setattr(os, "execve", execve)
    monkeypatch.setattr(os, "nice", lambda by: None)
    for name in ("DATABASE_URL_X", "CALIPER_SECRET_KEY", "REDIS_URL_X"):
        monkeypatch.setenv(name, "secret")
    for _ in range(2):
        with pytest.raises(Became):
            call_command("reward_server", project=project.slug, port=8123)
    (token,) = ApiToken.objects.live()
    assert token.scopes == ["score"]
    assert token.project_slug == project.slug
    (_, first), (command, second) = started
    assert command[1:] == [
        "-m", "workers.rewards.serve", "--project", f"http://127.0.0.1:8000/p/{project.slug}", "--port", "8123",
    ]  # fmt: skip
    assert ApiToken.objects.with_secret(second["CALIPER_TOKEN"]) == token
    assert ApiToken.objects.with_secret(first["CALIPER_TOKEN"]) is None
    assert "secret" not in second.values()
    with pytest.raises(CommandError, match="no project nowhere with an admin is open"):
        call_command("reward_server", project="nowhere")
    call_command("reward_server", project="nowhere", if_there=True)
