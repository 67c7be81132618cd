"""A broker that hangs, or is away, costs a click two seconds at most, and a page of cards nothing."""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction
from django.test import Client
from django.utils import timezone

from tests.instance import redis_started
from webapp import broker, celery
from webapp.accounts.models import User
from webapp.corpus.models import Import, Project, Prompt
from webapp.jobs import State
from webapp.snapshots.models import Export

ClientOf = Callable[[User], Client]


@pytest.fixture(params=["hangs", "is away"])
def silent(
    request: pytest.FixtureRequest, tmp_path: Any, settings: Any
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A Redis of our own that was there and gives no answer any more."""
    folder = tmp_path / "redis-data"
    folder.mkdir()
    process, url = redis_started(folder)
    settings.REDIS_URL, before = url, celery.app.conf.broker_url
    celery.app.conf.broker_url = url
    if request.param == "hangs":
        process.send_signal(signal.SIGSTOP)
    else:
        process.kill()
        process.wait()
    yield process, request.param
    celery.app.conf.broker_url = before
    process.kill()
    process.wait()


def seconds(act: Callable[[], Any]) -> float:
    began = time.monotonic()
    act()
    return time.monotonic() - began


@pytest.mark.django_db(transaction=True)
def test_clicks_and_pages_go_on(
    silent: tuple[Any, str],
    project: Project,
    admin: User,
    annotator: User,
    client_of: ClientOf,
    make_prompt: Callable[..., Prompt],
) -> None:
    make_prompt(project, "p1", ["Paris", "Lyon"])
    client, cards = client_of(admin), client_of(annotator)
    choice = {"format": "trl-explicit", "file_type": "jsonl", "aggregation": "majority"}
    assert seconds(lambda: client.post("/p/capitals/exports/", choice)) < 2
    assert Export.objects.get().state == State.QUEUED
    broker._silent_until.clear()
    Export.objects.update(queued_at=timezone.now() - timedelta(seconds=30))
    page: list[Any] = []
    assert seconds(lambda: page.append(client.get("/p/capitals/exports/"))) < 2
    assert "the broker (Redis) doesn" in page[0].content.decode()
    broker._silent_until.clear()
    assert seconds(lambda: client.get("/healthz")) < 2.5
    broker._silent_until.clear()
    # Judging needs no broker at all.
    assert seconds(lambda: cards.get("/p/capitals/annotate/")) < 0.8
    assert not broker._silent_until


@pytest.mark.django_db(transaction=True)
def test_several_jobs_of_one_request_wait_once(silent: tuple[Any, str], project: Project) -> None:
    def send() -> None:
        with transaction.atomic():
            for pk in range(5):
                celery.enqueue("workers.tasks.import_file", pk)

    assert seconds(send) < 2


@pytest.mark.parametrize("silent", ["hangs"], indirect=True)
@pytest.mark.django_db(transaction=True)
def test_a_broker_that_is_back_gets_the_next_message(
    silent: tuple[Any, str], project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, _ = silent
    monkeypatch.setattr(broker, "PAUSE_SECONDS", 0.3)
    celery.enqueue("workers.tasks.import_file", 1)
    process.send_signal(signal.SIGCONT)
    celery.enqueue("workers.tasks.import_file", 2)
    time.sleep(0.4)
    row = Import.objects.create(project=project, folder="imports/1")
    celery.enqueue("workers.tasks.import_file", row.pk)
    with broker.redis_client() as client:
        assert client.llen("default") >= 1


def test_a_worker_still_waits_for_messages_as_long_as_it_takes() -> None:
    with celery.app.connection_for_read() as connection:
        assert "socket_timeout" not in connection.transport_options
