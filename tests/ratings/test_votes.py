"""What a generative version wrote: stored as its files have it, and what follows from its votes on a pair."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ratings.votes import trajectories_of, voting_version
from webapp.accounts.models import User
from webapp.corpus.models import Pair, Project, Prompt, Response
from webapp.labels.models import Judgement
from webapp.ratings import tallies
from webapp.ratings.comparing import comparison
from webapp.ratings.lists import pair_rows
from webapp.ratings.models import JointVotes, PairGap, Trajectory, Vote
from webapp.ratings.probabilities import joint_outcome, ordinal_outcome
from webapp.ratings.queries import joint_of, labels_state, preferences
from webapp.ratings.services import BadPredictions, votes_store
from webapp.training.models import ModelVersion
from workers.rewards.generative.judge import Joint


@pytest.fixture
def prompt(project: Project, make_prompt: Callable[..., Prompt]) -> Prompt:
    return make_prompt(project, "paris", ["Paris.", "It is Lyon.", "I will not say."])


@pytest.fixture
def responses(prompt: Prompt) -> list[Response]:
    return list(prompt.responses.order_by("pk"))


def test_votes_are_stored_as_the_files_have_them(project: Project, responses: list[Response]) -> None:
    a, b, c = responses
    version = voting_version(project, {a: [7, 8, None, 9], b: [3, 8, None, 2], c: [1, 1, None, 4]})
    assert Trajectory.objects.filter(version=version).count() == 4
    assert Vote.objects.filter(trajectory__version=version).count() == 12
    second = Trajectory.objects.get(version=version, sample=1)
    shown = second.votes.order_by("position").values_list("response", "rating")
    assert list(shown) == [(b.pk, 8), (c.pk, 1), (a.pk, 8)]
    assert second.principles.startswith("1. Truth (weight 60 %), seen 1")
    assert second.text == "", "principles and critiques are all of it"
    unread = Trajectory.objects.get(version=version, sample=2)
    assert unread.text == "Text 2."
    assert not unread.counted
    assert "boxed" in unread.reason
    assert {vote.rating for vote in unread.votes.all()} == {None}
    assert [vote.rating for vote in Vote.objects.filter(median=True).order_by("response")] == [8, 3, 1]
    joint = JointVotes.objects.get(version=version, pair__response_a=a, pair__response_b=b)
    assert (joint.wins, joint.ties, joint.losses) == (2, 1, 0)
    # a came first in the samples 0 and 3; in sample 1 b did.
    assert (joint.first_wins, joint.first_ties, joint.first_losses) == (2, 0, 0)


def test_what_is_gone_is_left_out_and_a_pair_may_have_its_sides_the_other_way(
    project: Project, responses: list[Response]
) -> None:
    a, b, c = responses
    Pair.objects.filter(response_a=a, response_b=b).update(response_a=b, response_b=a)
    Pair.objects.filter(response_a=b, response_b=c).delete()
    files = trajectories_of({"paris-r1": [7, 8], "paris-r2": [3, 8], "gone": [1, 1]}, {"paris-r1": "a\0b"})
    version = voting_version(project, {c: [5, 5]})
    assert votes_store(version=version, **files) == 4
    joint = JointVotes.objects.get(version=version, pair__response_a=b)
    assert (joint.wins, joint.ties, joint.losses) == (0, 1, 1)
    assert (joint.first_wins, joint.first_ties, joint.first_losses) == (0, 1, 0)
    assert Vote.objects.filter(response=a)[0].critique == "a\ufffdb"
    assert Vote.objects.get(response=a, trajectory__sample=1).position == 2
    # What the text says of the other response stays when one of its responses goes.
    a.delete()
    assert Vote.objects.filter(response=b).count() == 2
    assert not JointVotes.objects.exists()


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("trajectories", {"scores": [7, 10]}, "scores must be 2 ratings from 1 to 9"),
        ("trajectories", {"scores": [7]}, "scores must be 2 ratings"),
        ("trajectories", {"scores": [7, True]}, "scores must be 2 ratings"),
        ("trajectories", {"counted": None}, "counted is None, not true or false"),
        ("trajectories", {"responses": ["paris-r1", "paris-r1"]}, "different ids"),
        ("trajectories", {"responses": []}, "1 to 16 different ids"),
        ("trajectories", {"sample": -1}, "sample is no number"),
        ("trajectories", {"sample": 1}, "is scored twice in sample 1"),
        ("trajectories", {"meta": float("inf")}, "meta is inf, not a finite number"),
        ("trajectories", {"text": "x" * 1_000_001}, "text of at most 1,000,000 characters"),
        ("critiques", {"critique": 3}, "critique must be a text"),
        ("critiques", {"sample": 1}, "has a critique of this sample already"),
        ("joint", {"wins": -1}, "both are counts"),
        ("joint", {"order_a_first_wins": 9}, "a part of all votes"),
    ],
)  # fmt: skip
def test_what_no_model_writes_is_refused(
    file: str, change: dict[str, Any], words: str, project: Project, responses: list[Response]
) -> None:
    version = voting_version(project, {responses[2]: [5]})
    files = copy.deepcopy(trajectories_of({"paris-r1": [7, 8], "paris-r2": [3, 8]}, {}))
    files[file][0] |= change
    with pytest.raises(BadPredictions, match=words) as refused:
        votes_store(version=version, **files)
    assert str(refused.value).startswith(f"{file}.parquet")
    assert Trajectory.objects.filter(version=version).count() == 1


# --- P(a preferred) ---


def test_joint_votes_are_surer_than_the_product_of_marginals() -> None:
    """Two responses whose ratings go up and down together, one always above the other."""
    a, b = [9, 7, 5, 3], [8, 6, 4, 2]
    product = ordinal_outcome(*[[votes.count(s) / 4 for s in range(1, 10)] for votes in (a, b)])
    assert product.preferred == pytest.approx(0.625)
    assert joint_outcome(4, 0, 0).preferred == pytest.approx(0.9)
    with pytest.raises(ValueError, match="votes are counts"):
        joint_outcome(-1, 0, 0)


@settings(deadline=None)
@given(*[st.integers(0, 64)] * 3)
def test_the_web_half_and_the_trainer_say_the_same(wins: int, ties: int, losses: int) -> None:
    said, joint = joint_outcome(wins, ties, losses), Joint(wins, ties, losses)
    assert (said.a, said.tie, said.b) == pytest.approx((joint.a, joint.tie, joint.b))
    assert said.preferred == pytest.approx(joint.preferred)
    assert said.a + said.tie + said.b == pytest.approx(1)


def test_one_function_decides_for_lists_tallies_leaderboard_and_comparison(
    project: Project,
    prompt: Prompt,
    responses: list[Response],
    annotator: User,
    make_user: Callable[..., User],
    make_version: Callable[..., ModelVersion],
    judge: Callable[..., Judgement],
    django_assert_num_queries: Any,
) -> None:
    a, b, c = responses
    # b above a in three of four texts, though a's mean is higher.
    version = voting_version(project, {a: [9, 3, 3, 3], b: [1, 4, 4, 4], c: [1, 1, 1, 1]})
    pair = Pair.objects.get(response_a=a, response_b=b)
    judge(pair, annotator, "b")
    judge(pair, make_user("ben"), "b")
    expected = joint_outcome(1, 0, 3).preferred
    assert expected == 0.3

    with django_assert_num_queries(5):
        (row,) = pair_rows(project, [pair.pk], version)
    assert row.outcome is not None
    assert row.outcome.preferred == expected
    assert preferences(version, labels_state(project)) == {pair.pk: (expected, False)}
    tallies.catch_up(project)
    assert tallies.versions_compare(project, version)
    gap = PairGap.objects.get(version=version, pair=pair)
    assert (gap.gap, gap.agrees) == (pytest.approx(expected), 1)

    plain = make_version(project, dict(zip(responses, [7.5, 3.0, 2.0], strict=True)))
    with django_assert_num_queries(4):
        pair_rows(project, [pair.pk], plain)
    assert joint_of(plain) == {}
    brier = next(row for row in comparison(version, plain, project).rows if "Brier" in row.name)
    assert brier.new == pytest.approx(expected**2)


# --- Pages ---

HOSTILE = (
    "<script>document.title = 'taken'</script>\n\n<img src=x onerror=\"document.title = 'taken'\">\n\n"
    "[click](javascript:alert(1)) ![](http://10.0.0.1/x.png)\n\n$\\boxed{9}$ and \\boxed{9}, \u202eesrever\u202c\n\n"
    "</section></details></div>\n\n" + "x" * 3000
)


def text_of(page: Any) -> str:
    return " ".join(page.content.decode().split())


def test_a_response_shows_its_votes_and_what_was_written(
    project: Project,
    responses: list[Response],
    researcher: User,
    client_of: Callable[[User], Client],
    make_version: Callable[..., ModelVersion],
    django_assert_max_num_queries: Any,
) -> None:
    a, b, c = responses
    votes = {a: [7, 8, None, 9], b: [3, 8, None, 2], c: [1, 1, None, 4]}
    version = voting_version(project, votes, texts={a: "Right, and **brief**."})
    client = client_of(researcher)
    address = reverse("ratings:response", args=[project.slug, a.pk])
    page = client.get(address)
    body = text_of(page)
    assert "<strong>3 votes:</strong> 7 8 9" in body
    assert "1 of 4 could not be read: <bdi>no \\boxed{} at its end</bdi>" in body
    assert [bar.votes for bar in page.context["strip"].halves[0].bars] == [0] * 6 + [1, 1, 1]
    assert "Judge (no training) v" in body
    assert "machine, not a person" in body
    assert "<strong>8 of 9</strong>" in body
    assert "Truth (weight 60 %), seen 1" in body
    assert body.count("<strong>brief</strong>") == 3
    assert body.count('<details class="vote">') == 3
    # The median vote's text showed b, c, a: the others stand there with links and their ratings.
    first = page.context["ballot"].first
    assert [vote.response.external_id for vote in first.shown] == ["paris-r2", "paris-r3", "paris-r1"]
    assert f'/responses/{b.pk}/?method=judge">paris-r2</a>' in body
    assert "Text 2." in body, "what could not be read is shown as it was written"
    # A version that never votes has none of it, and asks the database nothing more.
    make_version(project, dict(zip(responses, [7.5, 3.0, 2.0], strict=True)))
    plain = client.get(address, {"method": "oprm"})
    assert plain.context["ballot"] is None
    assert "machine, not a person" not in text_of(plain)
    with CaptureQueriesContext(connection) as asked:
        client.get(address, {"method": "oprm"})
    with django_assert_max_num_queries(len(asked) + 3):
        client.get(address, {"method": "judge"})
    methods = client.get(reverse("ratings:response-methods", args=[project.slug, a.pk]))
    assert "of 3 votes" in text_of(methods)
    assert version.short_method == "Judge"


def test_a_text_without_headings_is_shown_whole(
    project: Project, responses: list[Response], researcher: User, client_of: Callable[[User], Client]
) -> None:
    voting_version(project, {responses[0]: [5], responses[1]: [4]}, texts={responses[1]: ""})
    for response in responses[:2]:
        page = client_of(researcher).get(reverse("ratings:response", args=[project.slug, response.pk]))
        assert "Its whole text" in text_of(page)
        assert "Text 0." in text_of(page)


def test_many_texts_come_when_asked_for(
    project: Project, responses: list[Response], researcher: User, client_of: Callable[[User], Client]
) -> None:
    voting_version(project, {responses[0]: [5] * 12, responses[1]: [4] * 12}, method="grm")
    client = client_of(researcher)
    address = reverse("ratings:response", args=[project.slug, responses[0].pk])
    body = text_of(client.get(address))
    assert body.count('<details class="vote">') == 8
    assert "?votes=all#machine-title" in body
    body = text_of(client.get(address, {"votes": "all"}))
    assert body.count('<details class="vote">') == 11
    assert "#machine-title" not in body


def test_what_a_machine_wrote_is_as_hostile_as_any_response(
    project: Project, responses: list[Response], researcher: User, client_of: Callable[[User], Client]
) -> None:
    a, b, _ = responses
    voting_version(project, {a: [7, 6], b: [3, None]}, texts={a: HOSTILE, b: HOSTILE})
    Trajectory.objects.filter(sample=1).update(text=HOSTILE, reason="<b>no</b>")
    for response in (a, b):
        body = client_of(researcher).get(reverse("ratings:response", args=[project.slug, response.pk]))
        text = body.content.decode()
        assert "<script>document" not in text
        assert "<img" not in text
        assert 'href="javascript' not in text
        assert "&lt;script&gt;" in text
        assert "<b>no" not in text
        assert (
            text.count("\u202e") == text.count('<span class="unseen" data-sign="[U+202E]">\u202e</span>') > 0
        )
    assert 'class="unfold long"' in text


def test_a_pair_shows_both_orders(
    project: Project, responses: list[Response], researcher: User, client_of: Callable[[User], Client]
) -> None:
    a, b, _ = responses
    client = client_of(researcher)
    # a is preferred where it comes first, and b where that does.
    voting_version(project, {a: [7, 2, 7, 2], b: [3, 6, 3, 6]})
    address = reverse("ratings:pair", args=[project.slug, Pair.objects.get(response_a=a, response_b=b).pk])
    page = client.get(address)
    (item,) = page.context["orders"]
    assert [(order.first, order.wins, order.ties, order.losses) for order in item.orders] == [
        ("A", 2, 0, 0), ("B", 0, 0, 2),
    ]  # fmt: skip
    body = text_of(page)
    assert "The order decided: what it prefers turns round with it." in body.replace("</strong>", "")
    assert "Of 61 pairs that it saw in both orders, the order decided 18 %." in body
    assert "P(A preferred) 50 %" in body
    assert "of 4 votes: 2 2 7 7" in body

    # Neither is preferred where b comes first.
    half = voting_version(project, {a: [7, 5], b: [3, 5]}, is_serving=False)
    assert "In one of the two orders it prefers neither." in text_of(
        client.get(address, {"version": half.address})
    )
    one = voting_version(project, {a: [7], b: [3]}, metrics={"generative": "nonsense"}, is_serving=False)
    page = client.get(address, {"version": one.address})
    body = text_of(page)
    assert "It saw the two in one order alone" in body
    assert page.context["orders"][0].share is None
