"""The pages of webhooks: who sees them, adding, changing, testing, sending again; secrets are shown once."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from webapp.accounts.models import User
from webapp.corpus.models import AuditEntry, Project
from webapp.events.models import Delivery, Webhook
from webapp.events.services import MOST, webhook_add

ClientOf = Callable[[User], Client]
FORM = {"url": "https://example.com/hook?token=inner", "kinds": ["run.finished", "judgement.created"]}


@pytest.fixture(autouse=True)
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    keys: list[int] = []
    monkeypatch.setattr("webapp.celery.send", lambda task, key, **_: keys.append(key))
    return keys


def test_only_admins_of_the_project_see_them(
    project: Project,
    admin: User,
    annotator: User,
    researcher: User,
    stranger: User,
    make_user: Callable[..., User],
    client_of: ClientOf,
) -> None:
    hook = webhook_add(project=project, actor=admin, **FORM)
    delivery = hook.delivery("ping", {}, event_id=Delivery().event_id, at=hook.created_at)
    delivery.save()
    base = "/p/capitals/webhooks/"
    gets = [base, f"{base}{hook.pk}/"]
    acts = ("ping", "pause", "resume", "secret", "remove")
    posts = [
        *gets,
        *(f"{base}{hook.pk}/{act}/" for act in acts),
        f"{base}{hook.pk}/deliveries/{delivery.pk}/again/",
    ]
    for user, status in ((annotator, 403), (researcher, 403), (stranger, 404)):
        client = client_of(user)
        assert {client.get(url).status_code for url in gets} == {status}
        assert {client.post(url).status_code for url in posts} == {status}
    assert Client().get(base).status_code == 302
    # An admin elsewhere finds nothing of this project under an own address, nor under the keys of others.
    elsewhere = Project.objects.create(slug="rivers", name="Rivers")
    other = client_of(make_user("olga", elsewhere, "admin"))
    assert other.get(base).status_code == 404
    assert {other.post(url.replace("capitals", "rivers")).status_code for url in posts[1:]} == {404}
    own = webhook_add(project=elsewhere, actor=admin, **FORM)
    assert other.post(f"/p/rivers/webhooks/{own.pk}/deliveries/{delivery.pk}/again/").status_code == 404
    assert all(client_of(admin).get(url).status_code == 200 for url in gets)
    assert (hook.pk, own.pk) == tuple(Webhook.objects.order_by("pk").values_list("pk", flat=True))


def test_from_adding_to_removing(
    project: Project,
    admin: User,
    client_of: ClientOf,
    sent: list[int],
    django_capture_on_commit_callbacks: Any,
    django_assert_max_num_queries: Any,
) -> None:
    client, base = client_of(admin), "/p/capitals/webhooks/"
    assert "Nobody listens" in client.get(base).content.decode()
    page = client.post(base, FORM).content.decode()
    hook = Webhook.objects.get()
    assert hook.secret in page
    assert re.fullmatch(r"whsec_[A-Za-z0-9+/]{43}=", hook.secret)
    url = f"{base}{hook.pk}/"
    for address in (base, url):
        answer = client.get(address)
        assert hook.secret not in answer.content.decode(), "shown once"
        assert "no-store" in answer["Cache-Control"]
    with django_capture_on_commit_callbacks(execute=True):
        client.post(f"{url}ping/")
    assert sent == [hook.pk]
    delivery = Delivery.objects.get()
    fragment = client.get(url, headers={"HX-Request": "true"})
    assert "every 2s" in fragment.content.decode()
    [token] = re.findall(r"token=(\w+)", fragment.content.decode())
    assert client.get(f"{url}?token={token}", headers={"HX-Request": "true"}).status_code == 204
    Delivery.objects.update(state="failed", attempts=7, last_status=500, last_error="It <b>answered</b> 500.")
    page = client.get(url).content.decode()
    assert "7 attempts" in page
    assert "It &lt;b&gt;answered" in page
    assert "every 2s" not in page
    client.post(f"{url}deliveries/{delivery.pk}/again/")
    delivery.refresh_from_db()
    assert (delivery.state, delivery.attempts) == ("queued", 0)

    client.post(url, {"url": "https://example.com/other", "kinds": ["level.created"]})
    client.post(f"{url}pause/")
    project.refresh_from_db()
    assert not project.has_webhooks
    client.post(f"{url}resume/")
    secret = hook.secret
    page = client.post(f"{url}secret/").content.decode()
    hook.refresh_from_db()
    assert hook.secret in page
    assert secret not in page
    assert (hook.url, hook.kinds, hook.former_secret) == (
        "https://example.com/other",
        ["level.created"],
        secret,
    )
    client.post(f"{url}remove/")
    assert not Webhook.objects.exists()
    log = AuditEntry.objects.of(project).order_by("pk")
    assert list(log.values_list("action", flat=True)) == [
        "webhook-added", *["webhook-changed"] * 4, "webhook-removed"
    ]  # fmt: skip
    details = str(list(log.values_list("detail")))
    assert "example.com" in details
    assert not any(hidden in details for hidden in ("inner", "whsec_", secret, hook.secret))

    # A list of any length costs the same.
    for number in range(MOST):
        added = webhook_add(
            project=project, actor=admin, url=f"https://example.com/{number}", kinds=["run.finished"]
        )
    with django_assert_max_num_queries(8):
        client.get(base)
    for _ in range(30):
        added.delivery("ping", {}, event_id=delivery.event_id, at=added.created_at).save()
    with django_assert_max_num_queries(9):
        assert "Page 1 of 2" in client.get(f"{base}{added.pk}/").content.decode()
    refused = client.post(base, FORM)
    assert refused.status_code == 422
    assert "remove one first" in refused.content.decode()


def test_what_can_not_be_added_is_refused_in_words(
    project: Project, admin: User, client_of: ClientOf
) -> None:
    client, base = client_of(admin), "/p/capitals/webhooks/"
    for change, words in (
        ({"url": "http://127.0.0.1/x"}, "CALIPER_WEBHOOK_PRIVATE"),
        ({"url": "https://me:secret@example.com/"}, "Leave name and password out"),
        ({"url": "x" * 501}, "at most 500"),
        ({"url": "https://exa\x00mple.com/"}, "Null characters"),
        ({"kinds": []}, "Choose at least one"),
        ({"kinds": ["everything"]}, "everything"),
    ):
        answer = client.post(base, {**FORM, **change})
        assert answer.status_code == 422
        assert words in answer.content.decode()
    assert not Webhook.objects.exists()
    hook = webhook_add(project=project, actor=admin, **FORM)
    project.archived_at = hook.created_at
    project.save()
    assert client.post(base, FORM).status_code == 403
    assert "Add a webhook" not in client.get(base).content.decode()
    for act, status in (("ping", 403), ("resume", 403), ("secret", 403), ("pause", 302), ("remove", 302)):
        assert client.post(f"{base}{hook.pk}/{act}/").status_code == status
