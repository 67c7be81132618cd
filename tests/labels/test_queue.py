"""The queue: reservation with expiry, exact overlap, and who is given what."""

import random
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from tests.labels.recount import counters_recount
from webapp.accounts.models import User
from webapp.corpus.models import Pair, Project, Prompt, Response
from webapp.corpus.services import project_save
from webapp.labels import queue
from webapp.labels.counters import PAIRS, standing
from webapp.labels.models import Assignment, Judgement
from webapp.labels.queue import (
    assignments_for,
    busy_count,
    place_move,
    reservations_expire,
)
from webapp.labels.services import judgement_submit, level_submit

pytestmark = pytest.mark.django_db


def judge(assignment: Assignment, verdict: str = "a", **fields: Any) -> Any:
    assert assignment.pair is not None
    levels = {assignment.pair.response_a_id: "good", assignment.pair.response_b_id: "bad"}
    if verdict == "skip" or not assignment.project.asks_levels:
        levels = {}
    return judgement_submit(
        key=assignment.key, annotator=assignment.annotator, verdict=verdict, levels=levels, **fields
    )


def counters(pair: Pair) -> tuple[int, int]:
    pair.refresh_from_db()
    return pair.judged, pair.reserved


@pytest.fixture
def three_pairs(project: Project, make_prompt: Callable[..., Prompt]) -> list[Pair]:
    make_prompt(project, "p", ["one", "two", "three"])
    return list(Pair.objects.of(project))


def test_reserves_and_keeps_its_own(project: Project, annotator: User, three_pairs: list[Pair]) -> None:
    first = assignments_for(project=project, annotator=annotator)
    assert len(first) == 2
    assert {card.pair for card in first} < set(three_pairs)
    assert sorted(pair.reserved for pair in Pair.objects.all()) == [0, 1, 1]
    Assignment.objects.update(reserved_until=timezone.now() + timedelta(seconds=5))
    again = assignments_for(project=project, annotator=annotator)
    assert [card.key for card in again] == [card.key for card in first]
    assert min(Assignment.objects.values_list("reserved_until", flat=True)) > timezone.now() + timedelta(
        minutes=29
    )
    assert sum(pair.reserved for pair in Pair.objects.all()) == 2


def test_a_late_card_of_his_own_is_renewed_if_nobody_ended_it(
    project: Project, annotator: User, three_pairs: list[Pair]
) -> None:
    [card] = assignments_for(project=project, annotator=annotator, count=1)
    Assignment.objects.update(reserved_until=timezone.now() - timedelta(seconds=5))
    [again] = assignments_for(project=project, annotator=annotator, count=1)
    assert again.key == card.key
    assert reservations_expire() == 0


def test_never_what_he_judged_or_skipped(project: Project, annotator: User, three_pairs: list[Pair]) -> None:
    seen = []
    for verdict in ("a", "skip", "tie"):
        [card] = assignments_for(project=project, annotator=annotator, count=1)
        seen.append(card.pair_id)
        judge(card, verdict)
    assert sorted(seen) == sorted(pair.pk for pair in three_pairs)
    assert assignments_for(project=project, annotator=annotator) == []
    assert standing(project=project, annotator=annotator).open == 0


def test_overlap_is_exact_and_a_skip_frees_its_place(
    project: Project, make_user: Callable[..., User], three_pairs: list[Pair]
) -> None:
    people = [make_user(f"p{i}", project, "annotator") for i in range(4)]
    for person in people[:1]:
        for _ in range(3):
            judge(assignments_for(project=project, annotator=person, count=1)[0], "skip")
    assert [counters(pair) for pair in three_pairs] == [(0, 0)] * 3
    for person in people[1:3]:
        for _ in range(3):
            judge(assignments_for(project=project, annotator=person, count=1)[0])
    assert [counters(pair) for pair in three_pairs] == [(2, 0)] * 3
    assert assignments_for(project=project, annotator=people[3]) == []


def test_finish_started_with_its_propensity(
    project: Project, make_user: Callable[..., User], make_prompt: Callable[..., Prompt]
) -> None:
    make_prompt(project, "p", ["1", "2", "3", "4"])
    one, two, three = (make_user(name, project, "annotator") for name in ("one", "two", "three"))
    [first] = assignments_for(project=project, annotator=one, count=1)
    assert (first.policy, first.propensity) == ("finish-started", pytest.approx(1 / 6))
    judge(first)
    [second] = assignments_for(project=project, annotator=two, count=1)
    assert (second.pair_id, second.propensity) == (first.pair_id, 1.0)
    # The started pair is full now: five untouched ones are left for the third.
    [third] = assignments_for(project=project, annotator=three, count=1)
    assert third.pair_id != first.pair_id
    assert third.propensity == pytest.approx(1 / 5)
    stored = judge(third).judgement
    assert (stored.policy, stored.propensity, stored.left) == (third.policy, third.propensity, third.left)


def test_sides_and_pairs_are_drawn_at_random(
    project: Project, make_user: Callable[..., User], make_prompt: Callable[..., Prompt]
) -> None:
    Project.objects.update(overlap=100)
    project.refresh_from_db()
    make_prompt(project, "p", ["1", "2", "3"])
    chosen: Counter[Any] = Counter()
    sides: Counter[str] = Counter()
    for number in range(40):
        person = make_user(f"p{number}", project, "annotator")
        for card in assignments_for(project=project, annotator=person, count=1):
            sides[card.left] += 1
            chosen[card.pair_id] += 1
            Assignment.objects.filter(pk=card.pk).update(reserved_until=timezone.now() - timedelta(1))
        reservations_expire()
    assert min(sides["a"], sides["b"]) > 5
    assert len(chosen) == 3


def test_expiry_gives_the_place_back_once(
    project: Project, annotator: User, admin: User, three_pairs: list[Pair]
) -> None:
    cards = assignments_for(project=project, annotator=annotator, count=3)
    assert reservations_expire() == 0
    Assignment.objects.filter(pk__in=[card.pk for card in cards[:2]]).update(
        reserved_until=timezone.now() - timedelta(seconds=1)
    )
    assert reservations_expire(project=project) == 2
    assert reservations_expire() == 0
    assert sum(pair.reserved for pair in Pair.objects.all()) == 1
    # What expired may come again, under a new key.
    again = assignments_for(project=project, annotator=annotator, count=3)
    assert {card.pair_id for card in again} == {pair.pk for pair in three_pairs}
    assert {card.key for card in again} & {card.key for card in cards} == {cards[2].key}


def test_late_places_are_taken_without_waiting_for_the_tick(
    project: Project, annotator: User, admin: User, three_pairs: list[Pair]
) -> None:
    Project.objects.update(overlap=1)
    project.refresh_from_db()
    project_save(project=project)
    assignments_for(project=project, annotator=annotator, count=3)
    assert assignments_for(project=project, annotator=admin) == []
    assert busy_count(project=project, annotator=admin) == 3
    Assignment.objects.update(reserved_until=timezone.now() - timedelta(seconds=1))
    assert len(assignments_for(project=project, annotator=admin)) == 2


def test_a_place_is_taken_only_while_one_is_free(project: Project, three_pairs: list[Pair]) -> None:
    pair = three_pairs[0]
    assert [place_move(PAIRS, pair.pk, reserved=1, only_if_free=True) for _ in range(3)] == [
        True,
        True,
        False,
    ]
    assert place_move(PAIRS, pair.pk, done=1, reserved=-1, only_if_free=True)
    assert counters(pair) == (1, 1)


def test_wanted_follows_the_overlap(
    project: Project, annotator: User, admin: User, three_pairs: list[Pair]
) -> None:
    for person in (annotator, admin):
        for _ in range(3):
            judge(assignments_for(project=project, annotator=person, count=1)[0])
    Project.objects.update(overlap=3)
    project.refresh_from_db()
    project_save(project=project)
    assert set(Pair.objects.values_list("wanted", flat=True)) == {3}
    Project.objects.update(overlap=1)
    project.refresh_from_db()
    project_save(project=project)
    assert [counters(pair) for pair in three_pairs] == [(2, 0)] * 3


def test_lone_responses(
    project: Project, make_user: Callable[..., User], make_prompt: Callable[..., Prompt]
) -> None:
    Project.objects.update(asks="levels")
    project.refresh_from_db()
    make_prompt(project, "p", ["one", "two"], pairs=False)
    one, two, three = (make_user(name, project, "annotator") for name in ("one", "two", "three"))
    for person in (one, two):
        for card in assignments_for(project=project, annotator=person):
            assert card.left == ""
            level_submit(key=card.key, annotator=person, level="good")
    assert list(Response.objects.values_list("labelled", "reserved")) == [(2, 0), (2, 0)]
    assert assignments_for(project=project, annotator=three) == []
    Project.objects.update(overlap=3)
    project.refresh_from_db()
    project_save(project=project)
    for card in assignments_for(project=project, annotator=three):
        level_submit(key=card.key, annotator=three, level="skip")
    # A skipped lone response does not come again to them, and its place is free for others.
    assert assignments_for(project=project, annotator=three) == []
    assert list(Response.objects.values_list("labelled", "reserved")) == [(2, 0), (2, 0)]


def test_recount_mends_the_counters(
    project: Project, annotator: User, admin: User, three_pairs: list[Pair]
) -> None:
    judge(assignments_for(project=project, annotator=annotator, count=1)[0])
    assignments_for(project=project, annotator=admin)
    right = list(Pair.objects.order_by("pk").values_list("judged", "reserved"))
    labelled = list(Response.objects.order_by("pk").values_list("labelled", flat=True))
    assert sum(labelled) == 2
    Pair.objects.update(judged=7, reserved=9)
    Response.objects.update(labelled=5)
    counters_recount(project=project)
    assert list(Pair.objects.order_by("pk").values_list("judged", "reserved")) == right
    assert list(Response.objects.order_by("pk").values_list("labelled", flat=True)) == labelled


def _many_pairs(project: Project, make_prompt: Callable[..., Prompt], count: int) -> None:
    """`count` pairs of the same few hundred responses."""
    make_prompt(project, "many", [str(n) for n in range(210)], pairs=False)
    pks = list(Response.objects.order_by("pk").values_list("pk", flat=True))
    combinations = [(a, b) for i, a in enumerate(pks) for b in pks[i + 1 :]][:count]
    Pair.objects.bulk_create(
        [
            Pair(project=project, external_id=f"{a}:{b}", response_a_id=a, response_b_id=b, wanted=2)
            for a, b in combinations
        ],
        batch_size=2000,
    )


@pytest.mark.slow
def test_twenty_thousand_pairs_take_no_more_queries_and_little_time(
    project: Project,
    annotator: User,
    admin: User,
    make_prompt: Callable[..., Prompt],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Next to an end of the ring, one draw in some hundred takes a query or two more to go on at the other.
    monkeypatch.setattr(queue, "point_draw", lambda: random.uniform(0.2, 0.8))
    _many_pairs(project, make_prompt, 20_000)
    assert Pair.objects.count() == 20_000
    others = [
        Judgement(pair_id=pk, annotator=annotator, verdict="a", client_key=f"k{pk}")
        for pk in Pair.objects.order_by("pk").values_list("pk", flat=True)[:2000]
    ]
    Judgement.objects.bulk_create(others, batch_size=1000)
    counters_recount(project=project)
    judge(assignments_for(project=project, annotator=admin, count=1)[0])
    times = []
    for _ in range(8):
        with CaptureQueriesContext(connection) as queries:
            start = time.process_time()
            [card] = assignments_for(project=project, annotator=admin, count=1)
            times.append(time.process_time() - start)
        # One's own, the numbers; savepoint, take, texts, create, ledger, release.
        assert len(queries) == 8
        judge(card)
    # About 5 ms of processor; the bound leaves room for a busy machine.
    assert min(times) < 0.1
