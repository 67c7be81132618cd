"""What happens is told with the act itself: of judgements, imports, trainings and versions, and of nothing else."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone

from webapp.accounts.models import User
from webapp.corpus.models import Import, Project, Prompt, Response
from webapp.events.models import Delivery, Kind, Webhook
from webapp.events.services import webhook_add, webhook_change, webhook_remove
from webapp.importing.services import import_cancel, import_run
from webapp.jobs import State
from webapp.labels.queue import assignments_for
from webapp.labels.services import judgement_submit, judgement_undo, level_submit
from webapp.training.models import ModelVersion, TrainingRun
from webapp.training.services import version_promote, version_publish
from workers.housekeeping import jobs_reap


@pytest.fixture(autouse=True)
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    messages: list[tuple[str, int]] = []
    monkeypatch.setattr("webapp.celery.send", lambda task, key, **_: messages.append((task, key)))
    return messages


@pytest.fixture
def hook(project: Project, admin: User) -> Webhook:
    hook = webhook_add(project=project, url="https://example.com/", kinds=list(Kind.values), actor=admin)
    project.refresh_from_db()
    return hook


def told() -> list[tuple[str, dict[str, Any]]]:
    """What was recorded, oldest first, and forgets it."""
    found = []
    for each in Delivery.objects.order_by("pk"):
        data = dict(each.payload["data"])
        assert data.pop("project") == "capitals"
        assert each.payload["type"] == each.kind
        found.append((each.kind, data))
    Delivery.objects.all().delete()
    return found


def test_judgements_and_levels(
    project: Project,
    hook: Webhook,
    admin: User,
    annotator: User,
    make_prompt: Callable[..., Prompt],
    sent: list[Any],
    django_capture_on_commit_callbacks: Any,
) -> None:
    make_prompt(project, "p", ["a secret text", "two"])
    [card] = assignments_for(project=project, annotator=annotator, count=1)
    levels = {card.pair.response_a_id: "good", card.pair.response_b_id: "bad"}
    with django_capture_on_commit_callbacks(execute=True):
        receipt = judgement_submit(
            key=card.key, annotator=annotator, verdict="a", strength=2, levels=levels, comment="my words"
        )
    assert sent == [], "who judges doesn't wait for the broker; beat looks every few seconds"
    same = judgement_submit(
        key=card.key, annotator=annotator, verdict="a", strength=2, levels=levels, comment="my words"
    )
    assert same.judgement == receipt.judgement
    assert "secret" not in str(list(Delivery.objects.values_list("payload")))
    assert "my words" not in str(list(Delivery.objects.values_list("payload")))
    first, *of_levels = told()
    assert first == (
        "judgement.created",
        {
            "judgement": receipt.judgement.pk,
            "pair": card.pair_id,
            "annotator": annotator.pk,
            "verdict": "a",
            "strength": 2,
            "source": "browser",
            "supersedes": None,
        },
    )
    assert [(kind, data["response"], data["level"]) for kind, data in of_levels] == [
        ("level.created", pk, level) for pk, level in sorted(levels.items())
    ]
    judgement_undo(project=project, annotator=annotator)
    [(kind, data)] = told()
    assert (kind, data["judgement"], data["pair"]) == (
        "judgement.taken_back",
        receipt.judgement.pk,
        card.pair_id,
    )

    # What is taken back with its transaction is told to nobody.
    with transaction.atomic():
        judgement_submit(key=card.key, annotator=annotator, verdict="skip")
        transaction.set_rollback(True)
    assert told() == []
    # Nobody who listens, no query for them: paused, of another project, of other kinds.
    webhook_change(webhook=hook, actor=admin, kinds=["run.finished"])
    judgement_submit(key=card.key, annotator=annotator, verdict="skip")
    assert told() == []
    webhook_change(webhook=hook, actor=admin, active=False)
    project.refresh_from_db()
    assert not project.has_webhooks
    webhook_change(webhook=hook, actor=admin, active=True)
    other = webhook_add(project=project, url="https://example.org/", kinds=["level.created"], actor=admin)
    for each, left in ((hook, True), (other, False)):
        assert webhook_remove(webhook=each, actor=admin)
        project.refresh_from_db()
        assert project.has_webhooks is left


def test_levels_of_lone_responses(
    project: Project, hook: Webhook, annotator: User, make_prompt: Callable[..., Prompt]
) -> None:
    project.asks = Project.Asks.LEVELS
    project.save()
    make_prompt(project, "p", ["one"], pairs=False)
    [card] = assignments_for(project=project, annotator=annotator, count=1)
    first = level_submit(key=card.key, annotator=annotator, level="good").label
    level_submit(key=card.key, annotator=annotator, level="skip")
    level_submit(key=card.key, annotator=annotator, level="bad")
    judgement_undo(project=project, annotator=annotator)
    found = told()
    assert [kind for kind, _ in found] == [
        "level.created", "judgement.taken_back", "level.created", "judgement.taken_back"
    ]  # fmt: skip
    assert found[0][1]["level"] == "good"
    assert found[1][1]["quality_label"] == first.pk
    assert found[1][1]["response"] == Response.objects.get().pk


def test_imports_however_they_end(project: Project, hook: Webhook, admin: User) -> None:
    def row(name: str, text: str, **fields: Any) -> Import:
        made = Import.objects.create(
            project=project, created_by=admin, file_name="a.jsonl", folder=f"imports/{name}", **fields
        )
        made.error_file().parent.mkdir(parents=True)
        made.error_file().with_name("a.jsonl").write_text(text)
        return made

    good = '{"type": "prompt", "id": "p1", "text": "Why?"}\n'
    good += '{"type": "response", "id": "r1", "prompt": "p1", "text": "x"}\n'
    rows = [row("1", good), row("2", good, dry_run=False), row("3", "not json\n", dry_run=False)]
    for each in rows:
        import_run(each)
    waiting, silent = row("4", good), row("5", good, state=State.RUNNING)
    assert import_cancel(import_row=waiting, actor=admin)
    Import.objects.filter(pk=silent.pk).update(heartbeat_at=timezone.now() - timedelta(hours=1))
    assert jobs_reap() == 1
    assert jobs_reap() == 0
    assert told() == [
        ("import.finished", {"import": each.pk, "state": state, "preview": each.dry_run})
        for each, state in zip(
            [*rows, waiting, silent], ["done", "done", "failed", "cancelled", "lost"], strict=True
        )
    ]


def test_trainings_and_versions(
    project: Project,
    hook: Webhook,
    admin: User,
    sent: list[Any],
    django_capture_on_commit_callbacks: Any,
) -> None:
    def running(**fields: Any) -> TrainingRun:
        run = TrainingRun.objects.create(project=project, method="bt", trigger="button", config={}, **fields)
        assert run.claim()
        return run

    run = running()
    # It began before anybody listened, and knows it not.
    run.project = Project(pk=project.pk, slug=project.slug, split_salt=project.split_salt)
    (run.folder / "model").mkdir(parents=True)
    (run.folder / "model" / "reward_config.json").write_text("{}")
    version = version_publish(run=run, metrics={}, artifact={"kind": "scalar", "digest": "d" * 64})
    version_promote(version=ModelVersion.objects.get(pk=version.pk), actor=admin)
    with django_capture_on_commit_callbacks(execute=True):
        assert run.finish()
    assert sent == [("workers.tasks.webhook_send", hook.pk)]
    assert not run.finish()
    of_version = {
        "version": version.pk, "name": "bt-1", "method": "bt", "number": 1, "kind": "scalar", "digest": "d" * 64,
        "run": run.pk, "gate_passed": version.gate_passed,
    }  # fmt: skip
    of_run = {
        "run": run.pk,
        "method": "bt",
        "trigger": "button",
        "state": "done",
        "version": of_version,
        "same_as": None,
    }
    assert told() == [
        ("version.published", of_version),
        ("version.promoted", {**of_version, "instead_of": None}),
        ("run.finished", of_run),
    ]
    failed, stopped, queued = (
        running(),
        running(),
        TrainingRun.objects.create(
            project=project, method="bt", trigger="button", config={}, config_digest="2"
        ),
    )
    assert failed.fail("It went wrong in /srv/secret/folder.")
    assert stopped.stop()
    assert queued.request_cancel()
    assert [(data["run"], data["state"], data["version"]) for _, data in told()] == [
        (failed.pk, "failed", None), (stopped.pk, "cancelled", None), (queued.pk, "cancelled", None)
    ]  # fmt: skip
