"""What labels add up to."""

from collections.abc import Callable
from datetime import timedelta
from itertools import count
from typing import Any

import pytest
from django.db.models import F
from django.utils import timezone

from webapp.accounts.models import User
from webapp.corpus.models import Pair, Project, Prompt, Response
from webapp.labels.models import Assignment, Judgement, QualityLabel
from webapp.labels.summaries import (
    Coverage,
    Levels,
    QueueState,
    Votes,
    coverage,
    label_totals,
    labels_per_day,
    level_counts,
    newest_labels,
    queue_state,
    vote_counts,
    vote_tallies,
)


@pytest.fixture
def people(make_user: Callable[..., User]) -> list[User]:
    return [make_user(name) for name in ("p1", "p2", "p3")]


@pytest.fixture
def pairs(project: Project, make_prompt: Callable[..., Prompt]) -> list[Pair]:
    make_prompt(project, "one", ["A.", "B.", "C."])
    return list(Pair.objects.of(project).order_by("pk"))


keys = count(1)


def judge(pair: Pair, person: User, verdict: str, **fields: Any) -> Judgement:
    if verdict != "skip":
        Pair.objects.filter(pk=pair.pk).update(judged=F("judged") + 1)
    return Judgement.objects.create(
        pair=pair, annotator=person, verdict=verdict, client_key=f"s{next(keys)}", **fields
    )


def rate(response: Response, person: User, level: str, **fields: Any) -> QualityLabel:
    return QualityLabel.objects.create(
        response=response, annotator=person, level=level, client_key=f"s{next(keys)}", **fields
    )


@pytest.mark.parametrize(
    ("votes", "share", "disagreement"),
    [
        (Votes(), None, None),
        (Votes(a=1), 1.0, None),
        (Votes(a=2), 1.0, 0.0),
        (Votes(a=1, b=1), 0.5, 1.0),
        (Votes(a=2, b=1), 2 / 3, 2 / 3),
        (Votes(a=1, tie=1, both_bad=1, b=1), 0.5, 1.0),
        (Votes(both_bad=3), 0.5, 0.0),
        (Votes(a=3, tie=2), 0.8, 0.6),
    ],
)
def test_shares_and_disagreement(votes: Votes, share: float | None, disagreement: float | None) -> None:
    assert votes.share == pytest.approx(share)
    assert votes.disagreement == pytest.approx(disagreement)
    assert votes.swapped.disagreement == votes.disagreement
    assert share is None or votes.swapped.share == pytest.approx(1 - share)


def test_votes_count_current_words_only(project: Project, pairs: list[Pair], people: list[User]) -> None:
    first = judge(pairs[0], people[0], "b", is_current=False)
    judge(pairs[0], people[0], "a", supersedes=first)
    judge(pairs[0], people[1], "both_bad")
    judge(pairs[0], people[2], "skip")
    undone = judge(pairs[1], people[0], "tie", is_current=False)
    judge(pairs[1], people[0], "skip", supersedes=undone, retraction=True)
    expected = {pairs[0].pk: Votes(a=1, both_bad=1)}
    assert vote_counts([pair.pk for pair in pairs]) == expected
    assert vote_counts([pairs[1].pk]) == {}
    assert vote_tallies(project) == expected
    other = Project.objects.create(slug="other", name="Other")
    assert vote_tallies(other) == {}


def test_levels_count_current_words_only(project: Project, pairs: list[Pair], people: list[User]) -> None:
    response, other = pairs[0].response_a, pairs[0].response_b
    old = rate(response, people[0], "bad", is_current=False)
    rate(response, people[0], "good", supersedes=old)
    rate(response, people[1], "normal")
    undone = rate(other, people[0], "good", is_current=False)
    rate(other, people[0], "", supersedes=undone, retraction=True)
    levels = level_counts([response.pk, other.pk])
    assert levels == {response.pk: Levels(normal=1, good=1)}
    assert levels[response.pk].shares == {"bad": 0.0, "normal": 0.5, "good": 0.5}
    assert Levels().shares == {"bad": None, "normal": None, "good": None}
    said = levels[response.pk]
    assert (said.total, said.mean, said.variance) == (2, 1.5, 0.25)
    assert (Levels().mean, Levels().variance) == (None, None)


def test_days_count_what_people_did_here(project: Project, pairs: list[Pair], people: list[User]) -> None:
    now = timezone.now()
    judge(pairs[0], people[0], "a")
    judge(pairs[1], people[0], "skip")
    judge(pairs[1], people[1], "b", created_at=now - timedelta(days=2))
    judge(pairs[2], people[1], "b", created_at=now - timedelta(days=40))
    judge(pairs[2], people[2], "b", source="import")
    rate(pairs[0].response_a, people[0], "good")
    days = labels_per_day(project)
    assert len(days) == 30
    assert days[-1].day == timezone.localdate()
    assert (days[-1].judgements, days[-1].levels, days[-1].total) == (1, 1, 2)
    assert days[-3].judgements == 1
    assert sum(day.total for day in days) == 3


def test_days_are_those_of_the_installations_time_zone(
    project: Project, pairs: list[Pair], people: list[User]
) -> None:
    with timezone.override("Pacific/Kiritimati"):  # UTC+14: late evening in UTC is tomorrow there
        midnight = timezone.localtime().replace(hour=0, minute=0, second=0, microsecond=0)
        judge(pairs[0], people[0], "a", created_at=midnight + timedelta(seconds=1))
        judge(pairs[1], people[0], "a", created_at=midnight - timedelta(seconds=1))
        days = labels_per_day(project, days=2)
        assert [day.judgements for day in days] == [1, 1]


def test_totals(project: Project, pairs: list[Pair], people: list[User]) -> None:
    judge(pairs[0], people[0], "a", source="import")
    judge(pairs[0], people[1], "b", source="simulated")
    judge(pairs[1], people[0], "skip")
    rate(pairs[0].response_a, people[2], "good", source="import")
    totals = label_totals(project)
    assert (totals.judgements, totals.skips, totals.levels) == (2, 1, 1)
    assert (totals.imported, totals.simulated, totals.annotators) == (2, 1, 3)


def test_the_newest_labels_name_a_state(project: Project, pairs: list[Pair], people: list[User]) -> None:
    assert newest_labels(project) == (0, 0)
    judgement = judge(pairs[0], people[0], "a")
    assert newest_labels(project) == (judgement.pk, 0)
    level = rate(pairs[0].response_a, people[0], "good")
    assert newest_labels(project) == (judgement.pk, level.pk)
    assert newest_labels(Project.objects.create(slug="other", name="Other")) == (0, 0)


def test_coverage_and_queue_of_pairs(project: Project, pairs: list[Pair], people: list[User]) -> None:
    judge(pairs[0], people[0], "a")
    judge(pairs[0], people[1], "a")
    judge(pairs[1], people[0], "a", created_at=timezone.now() - timedelta(hours=2))
    Pair.objects.filter(pk=pairs[2].pk).update(reserved=1)
    soon = timezone.now() + timedelta(minutes=5)
    for pair, until in ((pairs[2], soon), (pairs[1], timezone.now() - timedelta(minutes=1))):
        Assignment.objects.create(
            project=project, annotator=people[2], pair=pair, reserved_until=until, policy="x", propensity=1.0
        )
    assert coverage(project) == Coverage(noun="pairs", total=3, started=2, enough=1)
    assert coverage(project).share == pytest.approx(1 / 3)
    # One place of the second pair and one of the third are left; more judgements than wanted owe nothing.
    Pair.objects.filter(pk=pairs[0].pk).update(judged=5)
    assert queue_state(project) == QueueState(open=2, reserved=1, active=2)


def test_coverage_and_queue_of_lone_responses(
    project: Project, make_prompt: Callable[..., Prompt], people: list[User]
) -> None:
    project.asks = Project.Asks.LEVELS
    project.save()
    make_prompt(project, "solo", ["A.", "B."], pairs=False)
    Response.objects.filter(external_id="solo-r1").update(labelled=2)
    rate(Response.objects.get(external_id="solo-r1"), people[0], "good")
    rate(Response.objects.get(external_id="solo-r2"), people[1], "good", source="import")
    assert coverage(project) == Coverage(noun="responses", total=2, started=1, enough=1)
    assert queue_state(project) == QueueState(open=2, reserved=0, active=1)


def test_an_empty_project_has_no_share(project: Project) -> None:
    assert coverage(project) == Coverage(noun="pairs", total=0, started=0, enough=0)
    assert coverage(project).share is None
    assert queue_state(project) == QueueState(open=0, reserved=0, active=0)
    assert label_totals(project).annotators == 0


def test_query_counts(
    project: Project, pairs: list[Pair], people: list[User], django_assert_num_queries: Any
) -> None:
    for pair in pairs:
        for person in people:
            judge(pair, person, "a")
    for queries, summary in (
        (1, lambda: vote_counts([pair.pk for pair in pairs])),
        (1, lambda: vote_tallies(project)),
        (1, lambda: level_counts([pair.response_a_id for pair in pairs])),
        (2, lambda: labels_per_day(project)),
        (3, lambda: label_totals(project)),
        (2, lambda: newest_labels(project)),
        (1, lambda: coverage(project)),
        (4, lambda: queue_state(project)),
    ):
        with django_assert_num_queries(queries):
            summary()
