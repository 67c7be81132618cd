"""The queue's numbers: always what their rows come to, read without counting, and drawn from with known chances."""

import random
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from unittest import mock

import pytest
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from webapp.accounts.models import User
from webapp.corpus.counters import QueueCounter, counters_forget, judged_by_person
from webapp.corpus.models import Pair, Project, Prompt
from webapp.corpus.services import project_save
from webapp.labels import queue
from webapp.labels.checking import counters_check
from webapp.labels.counters import drift, recount, standing
from webapp.labels.models import Assignment, Judgement
from webapp.labels.services import judgement_submit, judgement_undo, level_submit

pytestmark = pytest.mark.django_db


def _answer(card: Assignment, rng: random.Random) -> None:
    if card.pair is None:
        level_submit(key=card.key, annotator=card.annotator, level=rng.choice(["good", "bad", "skip"]))
        return
    verdict = rng.choice(["a", "b", "skip", "tie"])
    pks = [card.pair.response_a_id, card.pair.response_b_id]
    levels = {} if verdict == "skip" else dict.fromkeys(pks, rng.choice(["good", "bad"]))
    judgement_submit(key=card.key, annotator=card.annotator, verdict=verdict, levels=levels)


@pytest.mark.parametrize("asks", ["both", "levels"])
@pytest.mark.parametrize("seed", range(3))
def test_no_number_drifts(
    project: Project,
    make_user: Callable[..., User],
    make_prompt: Callable[..., Prompt],
    asks: str,
    seed: int,
) -> None:
    Project.objects.update(asks=asks)
    project.refresh_from_db()
    make_prompt(project, "p", ["1", "2", "3", "4"])
    rng = random.Random(seed)
    people = [make_user(f"p{i}", project, "annotator") for i in range(4)]
    recount(project)
    done: Counter[str] = Counter()
    for _ in range(60):
        person = rng.choice(people)
        own = list(Assignment.objects.of(project, person).order_by("pk"))
        act = rng.choice(["draw", "draw", "answer", "answer", "again", "undo", "late", "overlap"])
        opened = [card for card in own if card.state == "open"]
        if act == "draw":
            queue.assignments_for(project=project, annotator=person, count=rng.choice([1, 2]))
        elif act == "answer" and opened:
            _answer(rng.choice(opened), rng)
        elif act == "again" and own:
            # A correction of any card, an expired one as well.
            _answer(rng.choice(own), rng)
        elif act == "undo":
            judgement_undo(project=project, annotator=person)
        elif act == "late" and opened:
            Assignment.objects.filter(pk=rng.choice(opened).pk).update(
                reserved_until=timezone.now() - timedelta(seconds=1)
            )
            queue.reservations_expire()
        elif act == "overlap" and rng.random() < 0.2:
            project.overlap = rng.choice([1, 2, 3])
            project_save(project=project)
            standing(project=project, annotator=person)
        else:
            continue
        done[act] += 1
        assert drift(project) == [], act
        numbers = standing(project=project, annotator=person)
        assert numbers.held == Assignment.objects.of(project, person).open().count()
    assert counters_check(project) == []
    assert min(done[act] for act in ("draw", "answer", "again", "undo", "late")) > 0


def test_what_drifted_is_told_and_mended(
    project: Project, annotator: User, make_prompt: Callable[..., Prompt], capsys: pytest.CaptureFixture[str]
) -> None:
    make_prompt(project, "p", ["1", "2", "3"])
    queue.assignments_for(project=project, annotator=annotator)
    QueueCounter.objects.filter(name="held").update(value=7)
    Pair.objects.filter(pk=Pair.objects.earliest("pk").pk).update(judged=1)
    call_command("recount", "--project", project.slug)
    told = capsys.readouterr().out
    assert "“held” of person" in told
    assert "lacked -5" in told
    assert "had 1 judged" in told
    assert standing(project=project, annotator=annotator).held == 2
    call_command("recount")
    assert "no wrong numbers" in capsys.readouterr().out


def test_numbers_that_say_nothing_is_open_are_not_believed(
    project: Project, annotator: User, make_prompt: Callable[..., Prompt]
) -> None:
    make_prompt(project, "p", ["1", "2"])
    recount(project)
    make_prompt(project, "q", ["1", "2", "3"])
    assert standing(project=project, annotator=annotator).open == 1
    assert len(queue.assignments_for(project=project, annotator=annotator, count=3)) == 3
    assert drift(project) == []


def test_chances_on_the_ring(project: Project, annotator: User, make_prompt: Callable[..., Prompt]) -> None:
    """Each row's chance is the one that is recorded: they add up to 1, and rows come as often as they say."""
    make_prompt(project, "p", [str(n) for n in range(7)])
    numbers = standing(project=project, annotator=annotator)
    [(place, size)] = numbers.free.items()
    assert size == 21
    ring = queue._Ring(project, annotator, place)
    chance: dict[int, float] = {}
    seen: Counter[int] = Counter()
    with mock.patch.object(queue, "_EVENLY", 4), mock.patch.object(queue, "_NEIGHBOURS", 5):
        draws = 600
        for _ in range(draws):
            found = ring.take(size)
            assert found is not None
            pk, probability = found
            Pair.objects.filter(pk=pk).update(reserved=0)
            assert chance.setdefault(pk, probability) == pytest.approx(probability)
            seen[pk] += 1
    assert len(chance) == size
    assert sum(chance.values()) == pytest.approx(1)
    # Chi-square with 20 degrees of freedom: 60 is exceeded once in 100,000.
    assert sum((seen[pk] - draws * p) ** 2 / (draws * p) for pk, p in chance.items()) < 60


class TestQueries:
    """A save with the next card, and the page, ask as often in every project."""

    @pytest.fixture
    def judged(
        self, project: Project, annotator: User, make_prompt: Callable[..., Prompt], client_of: Any
    ) -> Client:
        make_prompt(project, "p", [str(n) for n in range(9)])
        client: Client = client_of(annotator)
        client.get(reverse("labels:annotate", args=[project.slug]))
        return client

    def test_a_save(self, project: Project, annotator: User, judged: Client) -> None:
        asked = []
        for number in range(12):
            cards = list(Assignment.objects.of(project, annotator).open().order_by("pk"))
            answer = {"verdict": "left", "level_left": "good", "level_right": "bad", "revision": "0"}
            if number == 11:
                answer = {"skip": "1", "revision": "0"}
            held = {"holding": ",".join(str(card.key) for card in cards[1:])}
            url = reverse("labels:submit", args=[project.slug, cards[0].key])
            with CaptureQueriesContext(connection) as queries:
                response = judged.post(url, answer | held, headers={"HX-Request": "true"})
            assert response.headers["Caliper-Receipt"] == "kept"
            assert response.content.count(b'class="judge') == 1
            asked.append(len(queries))
        # Begin and commit (here: a savepoint) are two of them.
        assert max(asked) <= 16
        assert drift(project) == []

    def test_the_page(self, project: Project, judged: Client) -> None:
        with CaptureQueriesContext(connection) as queries:
            judged.get(reverse("labels:annotate", args=[project.slug]))
        assert len(queries) <= 8


def test_a_project_of_many_people(
    project: Project, make_prompt: Callable[..., Prompt], annotator: User
) -> None:
    make_prompt(project, "p", ["1", "2"])
    pair = Pair.objects.get()
    people = User.objects.bulk_create(User(username=f"crowd-{n}") for n in range(900))
    Judgement.objects.bulk_create(
        Judgement(pair=pair, annotator=person, verdict="a", client_key=f"k{person.pk}") for person in people
    )
    recount(project)
    assert drift(project) == []
    assert judged_by_person(project.pk) == {person.pk: 1 for person in people}


def test_a_save_between_a_change_in_bulk_and_its_count(
    project: Project, annotator: User, make_prompt: Callable[..., Prompt], client_of: Any
) -> None:
    make_prompt(project, "p", ["1", "2", "3", "4"])
    client = client_of(annotator)
    client.get(reverse("labels:annotate", args=[project.slug]))
    card, *others = Assignment.objects.order_by("pk")
    counters_forget(project.pk)
    answer = {"verdict": "left", "level_left": "good", "level_right": "bad", "revision": "0"}
    answer["holding"] = ",".join(str(other.key) for other in others)
    url = reverse("labels:submit", args=[project.slug, card.key])
    text = client.post(url, answer, headers={"HX-Request": "true"}).content.decode()
    assert "You: 1 judged" in text
    assert text.count('class="judge') == 1
    assert drift(project) == []
