"""Fixtures every test folder shares: a project with people in each role, and small builders."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.cache import caches
from django.db import connections
from django.test import Client

from webapp import broker
from webapp.accounts.models import User
from webapp.corpus.models import Membership, Pair, Project, Prompt, Response, messages_digest, text_digest

REPOSITORY = Path(__file__).resolve().parent.parent


def shared_data(*parts: str) -> Path:
    """A file of the real data kept outside the project; skips the test where it is absent."""
    root = Path(os.environ.get("CALIPER_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    path = root.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"real data is not at hand: {path} (set CALIPER_TEST_DATA)")
    return path


def shared_case(name: str) -> Path:
    """A small input that once went wrong (cases/README.md there has the right values); skips where it is absent."""
    path = Path(os.environ.get("CALIPER_TEST_CASES", REPOSITORY.parent / "shared" / "cases")) / name
    if not path.exists():
        pytest.skip(f"the cases are not at hand: {path} (set CALIPER_TEST_CASES)")
    return path


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In the run on PostgreSQL (see tests/run.py), leave out what doesn't touch the test database.

    Nor are pages driven in Chromium again: their views are tested on both databases without it.
    """
    if os.environ.get("CALIPER_TESTS") != "database":
        return
    fixtures = {"db", "transactional_db", "live_server"}
    chosen: list[pytest.Item] = []
    others: list[pytest.Item] = []
    for item in items:
        uses = item.get_closest_marker("django_db") or fixtures & set(getattr(item, "fixturenames", ()))
        once = item.get_closest_marker("browser") or item.get_closest_marker("one_database")
        (chosen if uses and not once else others).append(item)
    items[:] = chosen
    config.hook.pytest_deselected(items=others)


@pytest.fixture(scope="session")
def django_db_modify_db_settings(
    django_db_modify_db_settings_parallel_suffix: None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """SQLite is tested as it is run: a file in WAL mode, which several threads open for themselves."""
    database = connections["default"].settings_dict
    if connections["default"].vendor == "sqlite":
        database["TEST"]["NAME"] = str(tmp_path_factory.mktemp("database") / "test.sqlite3")


@pytest.fixture(autouse=True)
def data_dir(settings: Any, tmp_path: Path) -> Path:
    """Every test has a data folder of its own."""
    settings.DATA_DIR = tmp_path / "data"
    settings.DATA_DIR.mkdir()
    # Hashed file names need a collectstatic first; pages under test use the plain ones.
    # Nobody guesses the passwords of tests; the real hash takes most of a test's time.
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    settings.STORAGES = {
        **settings.STORAGES,
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
    }
    return settings.DATA_DIR


@pytest.fixture(autouse=True)
def _broker_is_asked() -> None:
    """A broker that was silent in one test is asked again in the next."""
    broker._silent_until.clear()


@pytest.fixture
def project(db: None) -> Project:
    return Project.objects.create(slug="capitals", name="Capitals", overlap=2, methods=["oprm"])


@pytest.fixture
def make_user(db: None) -> Callable[..., User]:
    def make(name: str, project: Project | None = None, *roles: str, **fields: Any) -> User:
        user = User.objects.create_user(name, password="correct horse battery", **fields)
        for role in roles:
            assert project is not None
            Membership.objects.create(project=project, user=user, role=role)
        return user

    return make


@pytest.fixture
def annotator(project: Project, make_user: Callable[..., User]) -> User:
    return make_user("anna", project, "annotator")


@pytest.fixture
def admin(project: Project, make_user: Callable[..., User]) -> User:
    return make_user("adam", project, "admin")


@pytest.fixture
def researcher(project: Project, make_user: Callable[..., User]) -> User:
    return make_user("rita", project, "researcher")


@pytest.fixture
def stranger(make_user: Callable[..., User]) -> User:
    return make_user("stan")


@pytest.fixture
def client_of() -> Callable[[User], Client]:
    def make(user: User) -> Client:
        client = Client()
        client.force_login(user)
        # As if seen within the last minute: a test that counts queries counts those of its page.
        caches["local"].set(f"seen:{client.session.session_key}", True)
        return client

    return make


@pytest.fixture
def make_prompt(db: None) -> Callable[..., Prompt]:
    """make_prompt(project, "p1", texts=["...", "..."]) makes a prompt, its responses and all their pairs."""

    def make(project: Project, name: str, texts: list[str], *, group: str = "", pairs: bool = True) -> Prompt:
        messages = [{"role": "user", "content": f"Question {name}?"}]
        prompt = Prompt.objects.create(
            project=project,
            external_id=name,
            messages=messages,
            digest=messages_digest(messages),
            group=group,
        )
        responses = [
            Response.objects.create(
                project=project,
                prompt=prompt,
                external_id=f"{name}-r{index}",
                text=text,
                digest=text_digest(text),
                author=f"model-{index}",
                wanted=project.overlap if project.asks == Project.Asks.LEVELS else 0,
            )
            for index, text in enumerate(texts, start=1)
        ]
        if pairs:
            for i, first in enumerate(responses):
                for second in responses[i + 1 :]:
                    Pair.objects.create(
                        project=project,
                        external_id=f"{first.external_id}:{second.external_id}",
                        response_a=first,
                        response_b=second,
                        wanted=project.overlap,
                    )
        return prompt

    return make
