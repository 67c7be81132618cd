"""/metrics and the log: who reads the figures, that they are right, that processes add up, and what no line holds."""

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from datetime import timedelta
from http.client import HTTPConnection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from webapp import heartbeat
from webapp.accounts.models import User
from webapp.celery import _log_names, _no_log_names
from webapp.corpus.models import Import, Project
from webapp.events.services import webhook_add
from webapp.jobs import JobFailed, carried
from webapp.logs import logging_settings
from webapp.training.models import TrainingRun

TOKEN = "m" * 40
REPOSITORY = Path(__file__).resolve().parents[2]


class FakeRedis:
    """The few commands that are asked for; a pipeline is the client itself."""

    def __init__(self) -> None:
        self.hashes: dict[str, dict[str, str]] = {}

    def __enter__(self) -> "FakeRedis":
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def pipeline(self, **_: Any) -> "FakeRedis":
        return self

    def execute(self) -> None:
        pass

    def llen(self, queue: str) -> int:
        return {"train": 3}.get(queue, 0)

    def hgetall(self, key: str) -> dict[str, str]:
        return self.hashes.get(key, {})

    def hincrbyfloat(self, key: str, field: str, by: float) -> None:
        found = self.hashes.setdefault(key, {})
        found[field] = str(float(found.get(field, 0)) + by)

    hincrby = hincrbyfloat


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, settings: Any) -> FakeRedis:
    settings.METRICS_TOKEN = TOKEN
    client = FakeRedis()
    for module in ("webapp.operations.metrics", "webapp.heartbeat"):
        monkeypatch.setattr(f"{module}.redis_client", lambda: client)
    monkeypatch.setattr("webapp.celery.send", lambda *args, **_: None)
    return client


def figures(text: str) -> dict[str, float]:
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def test_the_figures(
    project: Project,
    admin: User,
    fake: FakeRedis,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
    django_assert_max_num_queries: Any,
) -> None:
    client = Client()
    assert [client.get("/metrics", headers=headers).status_code for headers in (
        {}, {"Authorization": TOKEN}, {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": "Bearer \xff"},
    )] == [401] * 4  # fmt: skip
    authorised = {"Authorization": f"Bearer {TOKEN}"}
    assert client.post("/metrics", headers=authorised).status_code == 405

    hook = webhook_add(project=project, url="https://example.com/", kinds=["run.finished"], actor=admin)
    hook.delivery("ping", {}, event_id=uuid.uuid4(), at=timezone.now()).save()
    long_ago = timezone.now() - timedelta(minutes=5)
    for state in ("queued", "done", "done"):
        TrainingRun.objects.create(
            project=project, method="bt", config={}, state=state, config_digest=state, queued_at=long_ago
        )
    fake.hashes[heartbeat.KEY] = {"default@host": json.dumps({"queues": ["default"], "at": 1234.5})}
    task = SimpleNamespace(name="workers.tasks.tick")
    for task_id, state in (("1", "SUCCESS"), ("2", "FAILURE"), ("3", "SUCCESS")):
        heartbeat.task_began(task_id=task_id)
        heartbeat.task_ended(task_id=task_id, task=task, state=state)
    with django_assert_max_num_queries(16):
        answer = client.get("/metrics", headers=authorised)
    found = figures(answer.content.decode())
    assert found['caliper_queue_messages{queue="train"}'] == 3
    assert found['caliper_jobs{kind="trainingrun",state="done"}'] == 2
    assert found['caliper_jobs{kind="import",state="failed"}'] == 0
    assert 300 <= found['caliper_oldest_queued_job_seconds{kind="trainingrun"}'] < 330
    assert found['caliper_worker_last_seen_timestamp_seconds{worker="default@host"}'] == 1234.5
    assert found['caliper_tasks_total{outcome="done",task="workers.tasks.tick"}'] == 2
    assert found['caliper_tasks_total{outcome="failed",task="workers.tasks.tick"}'] == 1
    assert found['caliper_task_seconds_total{task="workers.tasks.tick"}'] >= 0
    assert found["caliper_webhook_deliveries_queued"] == 1
    assert found["caliper_judgements_total"] == 0
    assert found['caliper_scrape_part_down{part="queues"}'] == 0

    def silent() -> Any:
        raise OSError("no broker")

    monkeypatch.setattr("webapp.operations.metrics.redis_client", silent)
    found = figures(client.get("/metrics", headers=authorised).content.decode())
    assert found['caliper_scrape_part_down{part="queues"}'] == 1
    assert found["caliper_webhooks_failing"] == 0, "the other parts are there"
    settings.METRICS_TOKEN = ""
    assert client.get("/metrics", headers=authorised).status_code == 404


def free_port() -> int:
    with socket.socket() as test:
        test.bind(("127.0.0.1", 0))
        return test.getsockname()[1]


@pytest.mark.one_database
def test_web_processes_add_up_and_log_json(tmp_path: Path) -> None:
    """Two real gunicorn processes: each request is counted once, by the view's name, whichever of them is asked."""
    port = free_port()
    environment = {
        **os.environ,
        "CALIPER_DATA_DIR": str(tmp_path),
        "CALIPER_METRICS_TOKEN": TOKEN,
        "CALIPER_LOG_JSON": "true",
        "DATABASE_URL": f"sqlite:///{tmp_path / 'db.sqlite3'}",
        "REDIS_URL": "redis://127.0.0.1:1/0",
    }
    command = [
        sys.executable,
        "-m",
        "gunicorn",
        "webapp.wsgi:application",
        "-c",
        "python:webapp.gunicorn_settings",
    ]
    command += ["--bind", f"127.0.0.1:{port}", "--workers", "2", "--no-control-socket"]
    log = (tmp_path / "log").open("wb")
    process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=log, stderr=log)

    def get(path: str, method: str = "GET", **headers: str) -> tuple[int, str, Any]:
        connection = HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        body = answer.read().decode()
        connection.close()
        return answer.status, body, answer.headers

    def healthz_counted() -> float:
        status, body, _ = get("/metrics", Authorization=f"Bearer {TOKEN}")
        assert status == 200
        name = 'django_http_requests_latency_seconds_by_view_method_count{method="GET",view="healthz"}'
        return figures(body)[name]

    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                get("/healthz")
                break
            except OSError:
                time.sleep(0.2)
        before = healthz_counted()
        for _ in range(12):
            get("/healthz?only=database", **{"X-Request-ID": "from-the-proxy"})
        assert get("/healthz", **{"X-Request-ID": "from-the-proxy"})[2]["X-Request-ID"] == "from-the-proxy"
        made = get("/healthz", **{"X-Request-ID": "not sane"})[2]["X-Request-ID"]
        assert re.fullmatch(r"[0-9a-f]{32}", made)
        assert get("/join/hidden-token/", "POST")[0] == 403  # a forged one
        assert healthz_counted() - before == 14
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        log.close()
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    forged = next(line for line in lines if "Forbidden" in line["event"])
    assert forged["level"] == "warning"
    assert len(forged["request_id"]) == 32
    assert "hidden-token" not in str(lines)
    assert any(line["logger"] == "gunicorn.error" for line in lines)


def test_lines_of_jobs_and_tasks_and_what_none_holds(
    project: Project, admin: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    made = logging_settings(level="INFO", as_json=True)["formatters"]["lines"]
    formatter = made.pop("()")(**made)

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(formatter.format(record))

    handler = Handler()
    logger = logging.getLogger("webapp.jobs")
    logger.addHandler(handler)
    try:
        run = TrainingRun.objects.create(project=project, method="bt", config={})
        row = Import.objects.create(project=project, created_by=admin, folder="imports/x")
        _log_names(task_id="abc", task=SimpleNamespace(name="workers.tasks.train_run"))
        for job, error in (
            (run, JobFailed("No more whsec_c2VjcmV0 here.")),
            (row, ValueError("Bearer cal_0123abc")),
        ):
            assert job.claim()
            with carried(job):
                raise error
        _no_log_names()
        logger.warning("gone: %s", "/join/Zm9v-_/ /reset/MQ/set-password/")
    finally:
        logger.removeHandler(handler)
    first, second, third = map(json.loads, lines)
    assert (first["run"], first["task"], first["task_id"]) == (run.pk, "workers.tasks.train_run", "abc")
    assert (second["job"], second["level"]) == (f"import {row.pk}", "error")
    assert "ValueError" in second["exception"]
    assert "task_id" not in third
    text = "".join(lines)
    assert not any(hidden in text for hidden in ("c2VjcmV0", "cal_0", "0123abc", "Zm9v", "set-password"))
