"""Contradictory settings are named, each by its id."""

from typing import Any

import pytest
from django.core.checks import run_checks


def found() -> set[str]:
    return {str(message.id) for message in run_checks(tags=["caliper"])}


def test_the_defaults_contradict_nothing() -> None:
    assert found() == set()


def test_a_sound_public_installation_contradicts_nothing(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.ALLOWED_HOSTS = ["caliper.example.org"]
    settings.BEHIND_TLS = True
    settings.CSRF_TRUSTED_ORIGINS = ["https://caliper.example.org"]
    monkeypatch.setitem(settings.DATABASES["default"], "ENGINE", "django.db.backends.postgresql")
    assert found() == set()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"DEBUG": True, "ALLOWED_HOSTS": ["caliper.example.org"]}, "caliper.E001"),
        ({"ALLOWED_HOSTS": ["caliper.example.org"]}, "caliper.W002"),
        ({"ALLOWED_HOSTS": ["*"]}, "caliper.W003"),
        ({"BEHIND_TLS": True, "CSRF_TRUSTED_ORIGINS": ["http://caliper.example.org"]}, "caliper.E004"),
        ({"REDIS_URL": "amqp://127.0.0.1"}, "caliper.E005"),
        ({"MAX_TEXT_BYTES": 2 * 1024**2, "MAX_UPLOAD_BYTES": 1024**2}, "caliper.E007"),
        ({"MAX_TEXT_BYTES": 0}, "caliper.E007"),
        ({"TICK_SECONDS": 60, "JOB_LOST_AFTER_SECONDS": 60}, "caliper.E008"),
        ({"TICK_SECONDS": 0}, "caliper.E008"),
        ({"OIDC_ISSUER": "https://sso.example.org", "OIDC_CLIENT_ID": "caliper"}, "caliper.E020"),
        ({"OIDC_CLIENT_SECRET": "secret"}, "caliper.E020"),
        (
            {"OIDC_ISSUER": "http://sso.example.org", "OIDC_CLIENT_ID": "a", "OIDC_CLIENT_SECRET": "b"},
            "caliper.E021",
        ),
        ({"HEALTH_TOKEN": "short"}, "caliper.E022"),
        ({"MAIL_IS_ON": True}, "caliper.W023"),
        ({"MAIL_IS_ON": True, "ALLOWED_HOSTS": ["*"]}, "caliper.E024"),
    ],
)
def test_a_contradiction_is_named(settings: Any, changes: dict[str, Any], expected: str) -> None:
    for name, value in changes.items():
        setattr(settings, name, value)
    assert expected in found()


def test_sqlite_behind_tls_is_named(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.BEHIND_TLS = True
    monkeypatch.setitem(settings.DATABASES["default"], "ENGINE", "django.db.backends.sqlite3")
    assert found() == {"caliper.W006"}
