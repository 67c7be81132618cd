"""Webhooks by the API: added, changed, tested, sent again; refusals name the field; secrets are told once."""

from collections.abc import Callable

import pytest

from tests.api.conftest import Api, api, said  # noqa: F401 - a fixture
from webapp.accounts.models import User
from webapp.corpus.models import Project
from webapp.events.models import Delivery

BASE = "/projects/capitals/webhooks"
HOOK = {"url": "https://example.com/hook", "kinds": ["version.promoted", "run.finished"]}


@pytest.fixture(autouse=True)
def _no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webapp.celery.send", lambda *args, **_: None)


def test_the_life_of_a_webhook(project: Project, admin: User, api: Callable[..., Api]) -> None:  # noqa: F811
    caller = api(admin)
    added = said(caller.post(BASE, HOOK), 201)
    assert added["secret"].startswith("whsec_")
    assert added["kinds"] == ["run.finished", "version.promoted"]
    base = f"{BASE}/{added['id']}"
    assert "secret" not in said(caller.get(base))
    assert [each["id"] for each in said(caller.get(BASE))["items"]] == [added["id"]]
    assert said(caller.post(f"{base}/secret"))["secret"] != added["secret"]
    sent = said(caller.post(f"{base}/ping"), 201)
    assert sent["payload"]["data"] == {"project": "capitals", "webhook": added["id"]}
    again = f"{base}/deliveries/{sent['id']}/redeliver"
    assert "queued already" in said(caller.post(again), 409)["detail"]
    Delivery.objects.update(state="failed", attempts=7)
    assert said(caller.post(again))["attempts"] == 0
    assert [each["kind"] for each in said(caller.get(f"{base}/deliveries"))["items"]] == ["ping"]
    assert said(caller.patch(base, {"active": False}))["active"] is False
    assert said(caller.patch(base, {"kinds": ["level.created"]}))["kinds"] == ["level.created"]
    project.refresh_from_db()
    assert not project.has_webhooks
    assert caller.delete(base).status_code == 204
    said(caller.get(base), 404)


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"url": "http://[::1]:8000/"}, "url", "CALIPER_WEBHOOK_PRIVATE"),
        ({"url": "https://a:b@example.com/"}, "url", "Leave name and password out"),
        ({"kinds": []}, "kinds", "Choose at least one"),
        ({"kinds": ["nothing"]}, "kinds", "nothing"),
        ({"url": 7}, "url", ""),
        ({"url": "https://example.com/\x00"}, "url", ""),
        ({"secret": "mine"}, "secret", "no such field"),
    ],
)
def test_refusals_name_the_field(
    project: Project,
    admin: User,
    api: Callable[..., Api],  # noqa: F811
    change: dict[str, object],
    field: str,
    words: str,
) -> None:
    problem = said(api(admin).post(BASE, {**HOOK, **change}), 422)
    (error,) = problem["errors"]
    assert error["field"] == field
    assert words in error["message"] + error["remedy"]
    assert not project.webhooks.exists()
