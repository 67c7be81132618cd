"""/healthz says to everybody whether all is well, and what is up and down to those who look after it."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.test import Client

from tests.instance import redis_started
from webapp import embedded, health, heartbeat

pytestmark = pytest.mark.django_db


@pytest.fixture(scope="module")
def private_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis of our own, as the embedded Caliper starts it; its URL."""
    process, url = redis_started(tmp_path_factory.mktemp("data"))
    yield url
    process.terminate()
    process.wait()


@pytest.fixture
def broker(private_redis: str, settings: Any) -> Iterator[str]:
    settings.REDIS_URL = private_redis
    yield private_redis
    with heartbeat.redis_client() as client:
        client.flushall()


def sign(*queues: str, name: str = "worker@host", ago: float = 0.0) -> None:
    with heartbeat.redis_client() as client:
        client.hset(heartbeat.KEY, name, json.dumps({"queues": list(queues), "at": time.time() - ago}))


def test_all_is_well(client: Client, broker: str) -> None:
    sign("default", name="default@host")
    sign("train", name="train@host")
    sign("housekeeping", name="housekeeping@host")
    with heartbeat.redis_client() as redis:
        redis.rpush("train", "a message", "another")
    response = client.get("/healthz")
    assert response.status_code == 200
    answer = response.json()
    assert answer["ok"] is True
    assert set(answer) == {"ok", "database", "broker", "workers", "disk"}
    assert answer["workers"]["queues"] == {
        "default": {"workers": 1, "waiting": 0},
        "train": {"workers": 1, "waiting": 2},
        "housekeeping": {"workers": 1, "waiting": 0},
        # Its page says that there is none; nothing else needs it.
        "score": {"workers": 0, "waiting": 0},
    }
    assert answer["disk"]["free_mb"] > 0
    assert "no-cache" in response["Cache-Control"]


def test_a_queue_that_nobody_reads(client: Client, broker: str) -> None:
    sign("default", "housekeeping")
    sign("train", name="silent@host", ago=heartbeat.SILENT_AFTER_SECONDS + 1)
    response = client.get("/healthz")
    assert response.status_code == 503
    assert response.json()["workers"]["error"] == "no worker reads: train"
    assert response.json()["broker"] == {"ok": True}


def test_workers_long_gone_are_forgotten(broker: str) -> None:
    sign("train", name="old@host", ago=heartbeat.FORGET_AFTER_SECONDS + 1)
    health.check_workers()
    with heartbeat.redis_client() as client:
        assert client.hgetall(heartbeat.KEY) == {}


def test_a_broker_that_is_down_gives_nothing_away(client: Client, settings: Any) -> None:
    settings.REDIS_URL = f"redis://:hunter2@127.0.0.1:{embedded._free_port()}/0"
    response = client.get("/healthz")
    assert response.status_code == 503
    answer = response.json()
    assert answer["database"]["ok"] is True
    assert answer["broker"] == {"ok": False, "error": "broker is down; the web log says why"}
    assert answer["workers"]["ok"] is False
    assert b"hunter2" not in response.content
    assert b"127.0.0.1" not in response.content


def test_a_database_that_is_down(client: Client, broker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError("could not connect to postgres://caliper:hunter2@db")

    monkeypatch.setattr("webapp.health.connection", SimpleNamespace(cursor=refuse))
    response = client.get("/healthz?only=database")
    assert response.status_code == 503
    assert response.json() == {
        "ok": False,
        "database": {"ok": False, "error": "database is down; the web log says why"},
    }


def test_a_full_disk(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10 * 1024**2))
    response = client.get("/healthz?only=disk")
    assert response.status_code == 503
    assert response.json()["disk"] == {
        "ok": False,
        "free_mb": 10,
        "error": "the data folder's disk is nearly full",
    }


def test_parts_can_be_asked_for(client: Client) -> None:
    assert client.get("/healthz?only=database,disk").json().keys() == {"ok", "database", "disk"}
    response = client.get("/healthz?only=moon")
    assert response.status_code == 400
    assert response.json()["error"] == "unknown part: moon; there are database, broker, workers, disk"


TOKEN = "a token of thirty-two characters or more"


@pytest.mark.parametrize("behind_tls", [False, True])
@pytest.mark.parametrize(
    "more",
    [
        {"REMOTE_ADDR": "192.0.2.1"},
        # A proxy on this machine: what it passes on doesn't come from here.
        {"HTTP_X_FORWARDED_FOR": "192.0.2.1"},
        {"HTTP_X_FORWARDED_FOR": "192.0.2.1, 127.0.0.1"},
        {"REMOTE_ADDR": "192.0.2.1", "HTTP_AUTHORIZATION": "Bearer another token of thirty-two characters"},
        {"REMOTE_ADDR": "192.0.2.1", "HTTP_AUTHORIZATION": "Bearer "},
        {"REMOTE_ADDR": "192.0.2.1", "HTTP_COOKIE": "sessionid=made-up"},
    ],
)
def test_strangers_learn_whether_all_is_well_and_no_more(
    broker: str, settings: Any, more: dict[str, str], behind_tls: bool
) -> None:
    settings.BEHIND_TLS, settings.HEALTH_TOKEN = behind_tls, TOKEN
    client = Client(**more)
    for query in ("", "?only=database", "?only=moon"):
        down = client.get(f"/healthz{query}")
        assert (down.status_code, down.json()) == (503, {"ok": False})
    sign("default", "train", "housekeeping")
    well = client.get("/healthz")
    assert (well.status_code, well.json()) == (200, {"ok": True})


def test_no_token_opens_nothing_where_none_is_set() -> None:
    answer = Client(REMOTE_ADDR="192.0.2.1", HTTP_AUTHORIZATION="Bearer ").get("/healthz")
    assert answer.json().keys() == {"ok"}


def test_a_monitor_and_staff_see_the_parts(settings: Any, make_user: Any, client_of: Any) -> None:
    settings.HEALTH_TOKEN = TOKEN
    monitor = Client(REMOTE_ADDR="192.0.2.1", HTTP_AUTHORIZATION=f"Bearer {TOKEN}")
    assert monitor.get("/healthz?only=disk").json().keys() == {"ok", "disk"}
    for staff in (True, False):
        client = client_of(make_user(f"staff-{staff}", is_staff=staff))
        parts = client.get("/healthz?only=disk", REMOTE_ADDR="192.0.2.1").json().keys()
        assert ("disk" in parts) == staff


def test_it_is_only_read(client: Client) -> None:
    assert client.post("/healthz").status_code == 405


def test_a_workers_heartbeat_is_a_sign_and_its_end_takes_it_back(
    broker: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(heartbeat, "_last_sign", 0.0)
    queues = SimpleNamespace(consume_from={"train": None})
    app = SimpleNamespace(amqp=SimpleNamespace(queues=queues))
    heart = SimpleNamespace(eventer=SimpleNamespace(app=app, hostname="train@host"))
    heartbeat.sign(heart)
    with heartbeat.redis_client() as client:
        assert heartbeat.readers(client, ("default", "train")) == {"default": [], "train": ["train@host"]}
        heartbeat.sign_off("train@host")
        heartbeat.sign(heart)
        assert heartbeat.readers(client, ("train",)) == {"train": []}
