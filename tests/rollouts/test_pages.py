"""The page of rollouts as each role: pictures with their numbers, the warning, the newest pairs, the settings."""

import re
from collections.abc import Callable
from html import unescape
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from tests.rollouts.story import pair, report, rollout, tell
from webapp.accounts.models import User
from webapp.corpus.models import AuditEntry, Project
from webapp.labels.models import Judgement, QualityLabel
from webapp.rollouts.charts import agreement_picture, rewards_picture
from webapp.rollouts.models import RolloutPair, RolloutSettings, RolloutWindow
from webapp.rollouts.reports import POINTS, overview
from webapp.rollouts.services import rollouts_take
from webapp.training.models import ModelVersion

ClientOf = Callable[[User], Client]
FORM = {"on": "on", "per_hour": 30, "sample": 4, "window_seconds": 60, "uncertain": 40, "moved": 20}
PAGE = "/p/capitals/rollouts/"


def words(html: bytes) -> str:
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html.decode())).split())


def test_who_sees_and_sets_what(
    project: Project, client_of: ClientOf, annotator: User, researcher: User, admin: User, stranger: User
) -> None:
    assert Client().get(PAGE).status_code == 302
    assert client_of(stranger).get(PAGE).status_code == 404
    for page in ("rollouts/", "annotate/", "runs/"):
        text = client_of(annotator).get(f"/p/capitals/{page}").content.decode()
        assert "/rollouts/" not in text
    assert client_of(annotator).get(PAGE).status_code == 403
    read = client_of(researcher).get(PAGE).content.decode()
    assert "does not ask people back" in read
    assert "rollouts/settings/" not in read
    for user in (annotator, researcher, stranger):
        assert client_of(user).post(f"{PAGE}settings/", FORM).status_code in (403, 404)
    assert not RolloutSettings.objects.exists()
    wrong = client_of(admin).post(f"{PAGE}settings/", {**FORM, "moved": 51, "per_hour": "0"})
    assert wrong.status_code == 422
    assert "greater than or equal to 1" in words(wrong.content)
    wrong = client_of(admin).post(f"{PAGE}settings/", {**FORM, "moved": 51})
    assert "more than 90 %" in words(wrong.content)
    assert client_of(admin).post(f"{PAGE}settings/", FORM).status_code == 302
    row = RolloutSettings.objects.get()
    assert (row.on, row.per_hour, row.random) == (True, 30, 40)
    assert AuditEntry.objects.get(action="rollouts-changed").detail["on"] == {"from": False, "to": True}
    assert "workers.rewards.serve --project http://testserver/p/capitals/" in words(
        client_of(researcher).get(PAGE).content
    )
    Project.objects.update(archived_at=timezone.now())
    assert client_of(admin).post(f"{PAGE}settings/", FORM).status_code in (403, 409, 423)
    assert client_of(admin).get(PAGE).status_code == 200


def test_the_numbers_beside_people(
    asking: Project, make_version: Callable[..., ModelVersion], judge: Callable[..., None]
) -> None:
    version = make_version(asking)
    small = [pair("x", preferred=0.9), pair("y", preferred=0.2), pair("u", why="uncertain", preferred=0.5)]
    for place, (pairs, propensity) in enumerate(((small, 0.5), ([pair("z", preferred=0.7)], 0.25))):
        for each in pairs:
            each["propensity"] = propensity if each["why"] == "random" else 1.0
        rollouts_take(project=asking, report=report(version, pairs, place=place), reporter=None)
    rows = {row.pair.response_a.prompt.last_text: row.pair for row in RolloutPair.objects.with_names()}
    judge(rows["Question x?"], ["a", "b"])
    judge(rows["Question y?"], ["tie", "both_bad"])
    judge(rows["Question z?"], ["a"])
    judge(rows["Question u?"], ["b", "b"])  # chosen, not drawn: it says nothing about the others
    found = overview(asking)
    [told] = found.versions
    assert (told.scored, told.asked, told.random) == (1024, 4, 3)
    it = told.comparison
    assert it is not None
    # x and y stand for two candidates each, z for four; people agreed with half of x, half of y, all of z.
    assert it.expected == pytest.approx((2 * 0.9 + 2 * 0.8 + 4 * 0.7) / 8)
    assert it.people.value == pytest.approx((2 * 0.5 + 2 * 0.5 + 4 * 1) / 8)
    assert (it.people.n, it.finished, it.parted) == (3, 2, False)
    first, second = found.points
    assert (first.rewards.mean, second.rewards.mean) == (5.0, 5.1)
    assert first.people is not None
    assert second.people is not None
    assert (first.people.n, second.people.value) == (2, 1.0)
    pictures = rewards_picture(found.points), agreement_picture(found.points)
    for picture in pictures:
        assert picture is not None
        for line in picture.lines:
            assert all(spot.high <= spot.y <= spot.low for spot in line.spots)
            assert all(picture.left <= spot.x <= picture.right for spot in line.spots)
    assert pictures[1] is not None
    expects, people = (line.spots for line in pictures[1].lines)
    # A share stands where its axis says: half-way between 0 and 100 %.
    low, high = pictures[1].y_ticks[0].position, pictures[1].y_ticks[-1].position
    assert people[0].y == pytest.approx((low + high) / 2, abs=0.1)
    assert people[1].y == pytest.approx(high, abs=0.1)
    assert expects[1].y == pytest.approx(low + 0.7 * (high - low), abs=0.1)


@pytest.mark.one_database
def test_the_page_warns_when_they_part(
    asking: Project,
    make_version: Callable[..., ModelVersion],
    client_of: ClientOf,
    researcher: User,
    django_assert_num_queries: Any,
) -> None:
    calm, wild = make_version(asking), make_version(asking)
    tell(asking, [calm], windows=3)
    page = client_of(researcher)
    assert 'id="parted"' not in page.get(PAGE).content.decode()
    tell(asking, [calm, wild], windows=4, seed=2)
    with django_assert_num_queries(19):
        html = page.get(PAGE).content
    text = words(html)
    assert f"{wild.address} and people part." in text
    assert "Do not trust a rising reward now" in text
    it = overview(asking).versions[0].comparison
    assert it is not None
    assert f"{100 * it.people.value:.0f} % of the random rollout pairs" in text
    assert f"after {it.warned_after} finished pairs" in text
    assert "with a chance of at most 5 %" in text
    assert "<svg" in html.decode()
    assert " style=" not in html.decode()
    points = overview(asking).points
    assert len(points) <= POINTS + 1
    assert [point.until for point in points] == sorted(point.until for point in points)
    assert f"{points[-1].rewards.mean:.2f}" in text
    assert points[-1].good is not None
    assert f"{100 * points[-1].good.value:.0f} %" in text
    assert text.count("expects A with") == 10
    assert page.get(f"{PAGE}?page=2").status_code == page.get(f"{PAGE}?page=9x").status_code == 200
    QualityLabel.objects.all().delete()
    Judgement.objects.all().delete()
    RolloutWindow.objects.filter(version=calm).delete()
    assert "Nobody has judged a random pair" in words(page.get(PAGE).content)


def test_hostile_texts_are_shown_as_text(
    asking: Project, version: ModelVersion, client_of: ClientOf, researcher: User
) -> None:
    hostile = "<script>alert(1)</script> ![x](javascript:alert(1)) {{ 7|add:7 }}"
    sent = pair("x", a=rollout(hostile), messages=[{"role": "user", "content": hostile}])
    rollouts_take(project=asking, report=report(version, [sent], server="<b>gpu</b>"), reporter=researcher)
    html = client_of(researcher).get(PAGE).content.decode()
    assert "<script>alert" not in html
    assert 'javascript:alert(1)"' not in html
    assert "&lt;b&gt;gpu&lt;/b&gt;" in html
