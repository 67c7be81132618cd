"""What the worker adds up of a large project: the pages show the same figures, and say of when they are."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db.models import F
from django.test import Client
from django.urls import reverse

from webapp.accounts.models import User
from webapp.corpus.models import Pair, Project, Prompt
from webapp.ratings import stored
from webapp.ratings.leaderboard import board_of
from webapp.ratings.models import Summary
from webapp.ratings.queries import annotators_of
from webapp.ratings.summaries import label_summary


def words(page: Any) -> str:
    return " ".join(page.content.decode().split())


def test_a_large_projects_figures_are_stored_and_never_silently_old(
    project: Project,
    researcher: User,
    annotator: User,
    make_user: Callable[..., User],
    make_prompt: Callable[..., Prompt],
    make_version: Callable[..., Any],
    judge: Callable[..., Any],
    client_of: Callable[[User], Client],
    monkeypatch: pytest.MonkeyPatch,
    django_assert_max_num_queries: Any,
) -> None:
    for number in range(6):
        make_prompt(project, f"p{number}", ["Short.", "A longer one."])
    people = [annotator, make_user("ben")]
    for pair in Pair.objects.of(project):
        for person, verdict in zip(people, "ab" if pair.pk % 3 else "aa", strict=True):
            judge(pair, person, verdict)
    version = make_version(project, dict.fromkeys(project.responses.all(), 5.0), method="bt")
    client = client_of(researcher)
    overview = reverse("ratings:project", args=[project.slug])
    board = reverse("ratings:leaderboard", args=[project.slug])
    assert "Count again" not in words(client.get(overview))

    monkeypatch.setattr(stored, "LARGE", 5)
    for address in (overview, board):
        assert "counted for the first time" in words(client.get(address))
    assert stored.summaries_make() == 4
    assert stored.summaries_make() == 0
    # What is read back is what was made, to the last interval.
    assert stored.labels_of(project) == stored.Stored(label_summary(project))
    assert stored.leaderboard_of(project, version) == stored.Stored(board_of(project, version))
    assert stored.leaderboard_of(project, None) == stored.Stored(board_of(project, None))
    offered = [(annotator.pk, "anna"), (people[1].pk, "ben")]
    assert stored.offered_annotators(project, None) == offered
    assert annotators_of(project).others == []
    with django_assert_max_num_queries(12):
        assert "Count again" not in words(client.get(board))

    # A newer label makes them old: the pages tell, and the worker waits a while, unless somebody asks.
    judge(Pair.objects.of(project)[0], make_user("carl"), "b")
    for address in (overview, board):
        assert "Labels as of" in words(client.get(address))
    assert stored.summaries_make() == 0
    again = client.post(reverse("ratings:count-again", args=[project.slug]), {"page": "leaderboard"})
    assert again.headers["Location"] == board
    assert stored.summaries_make() == 4
    assert "Labels as of" not in words(client.get(board))
    judge(Pair.objects.of(project)[1], make_user("dora"), "b")
    Summary.objects.update(made_at=F("made_at") - timedelta(minutes=2))
    assert stored.summaries_make() == 4
