"""The leaderboard: what is counted, who sees it, how it stands beside a reward model's, and its file."""

import csv
import io
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from webapp.accounts.models import User
from webapp.corpus.models import Pair, Project, Prompt, Response
from webapp.labels.summaries import Votes
from webapp.ratings.leaderboard import board_of
from webapp.ratings.models import Prediction
from webapp.training.models import ModelVersion


@pytest.fixture
def judged(
    project: Project,
    make_user: Callable[..., User],
    make_prompt: Callable[..., Prompt],
    judge: Callable[..., Any],
) -> list[Pair]:
    """Eight prompts answered by model-1, model-2 and model-3: 1 beats 2 mostly, 2 beats 3, with ties and both bad."""
    people = [make_user(f"p{number}") for number in range(2)]
    verdicts = {"r1:r2": ["a", "a", "a", "tie"], "r1:r3": ["a"], "r2:r3": ["a", "a", "both_bad", "b"]}
    for number in range(8):
        prompt = make_prompt(project, f"q{number}", ["One.", "Two.", "Three."])
        for pair in Pair.objects.filter(response_a__prompt=prompt).order_by("pk"):
            which = pair.external_id.replace(f"q{number}-", "")
            for person in people:
                judge(pair, person, verdicts[which][number % len(verdicts[which])])
    judge(Pair.objects.get(external_id="q0-r1:q0-r2"), make_user("skips"), "skip")
    return list(Pair.objects.of(project))


@pytest.fixture
def version(project: Project, judged: list[Pair], make_version: Callable[..., ModelVersion]) -> ModelVersion:
    """Rates model-2 highest; trained on all but the first six prompts."""
    ratings = {
        response: {"model-1": 5.0, "model-2": 8.0, "model-3": 2.0}[response.author]
        for response in project.responses.all()
    }
    made = make_version(project, ratings)
    made.predictions.filter(response__prompt__external_id__in=("q6", "q7")).update(
        split=Prediction.Split.TRAIN
    )
    return made


def address(project: Project, name: str = "leaderboard") -> str:
    return reverse(f"ratings:{name}", args=[project.slug])


def words(page: Any) -> str:
    return " ".join(page.content.decode().split())


def test_authors_are_ranked_by_people_and_by_the_model(
    project: Project, judged: list[Pair], version: ModelVersion
) -> None:
    board = board_of(project, version)
    assert [row.author for row in board.rows] == ["model-1", "model-2", "model-3"]
    assert [row.plain.rank for row in board.rows] == [1, 2, 3]
    assert board.rows[0].votes == Votes(a=28, tie=4)
    assert board.rows[1].votes == Votes(a=8, b=16, tie=4, both_bad=4)
    assert (board.judgements, board.prompts, board.ties, board.both_bad) == (48, 8, 4, 4)
    low, high = board.rows[0].plain.elo.low, board.rows[0].plain.elo.high
    assert low is not None
    assert high is not None
    assert low < board.rows[0].plain.elo.value < high
    # "One.", "Two." and "Three.": lengths differ, so that there is something to control for.
    assert board.length is not None
    # By the model 2 is first; only what it was not trained on counts: 36 of 48 judgements.
    assert [(row.author, row.model.rank, row.moved) for row in board.rows if row.model] == [
        ("model-1", 2, "1 lower"), ("model-2", 1, "1 higher"), ("model-3", 3, "the same"),
    ]  # fmt: skip
    assert board.model_judgements == 36


def test_what_says_nothing_of_authors_is_left_out_and_counted(
    project: Project,
    judged: list[Pair],
    make_user: Callable[..., User],
    make_prompt: Callable[..., Prompt],
    judge: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    person = make_user("kim")
    before = board_of(project, None).rows
    for name, first, second in (("same", "x", "x"), ("none", "", "model-1"), ("far", "y", "z")):
        responses = make_prompt(project, name, ["Yes.", "No."]).responses.order_by("pk")
        for response, author in zip(responses, (first, second), strict=True):
            Response.objects.filter(pk=response.pk).update(author=author)
        judge(Pair.objects.get(response_a=responses[0]), person, "a")
    board = board_of(project, None)
    assert (board.alike, board.nameless, board.rare) == (1, 1, 0)
    assert board.apart == [("y", 1), ("z", 1)]
    assert board.rows == before
    assert board.rows[0].model is None
    monkeypatch.setattr("webapp.ratings.leaderboard.MOST_AUTHORS", 2)
    judge(judged[0], make_user("lee"), "tie")
    board = board_of(project, None)
    assert [row.author for row in board.rows] == ["model-1", "model-2"]
    assert board.rare == 33


def test_the_page_says_how_sure_it_is(
    project: Project,
    judged: list[Pair],
    version: ModelVersion,
    researcher: User,
    client_of: Callable[[User], Client],
    make_version: Callable[..., ModelVersion],
    django_assert_num_queries: Any,
) -> None:
    client = client_of(researcher)
    with django_assert_num_queries(
        3 + 2 + 1 + 2 + 6
    ):  # versions; whether it is large; labels' state; votes, responses, pairs, predictions and their number
        page = client.get(address(project))
    with django_assert_num_queries(3 + 5):
        client.get(address(project))
    body = words(page)
    assert "3 authors, 48 judgements on 8 prompts; 36 of them held out from OPRM" in body
    assert "“At equal length” takes away what length wins" in body
    assert "1 higher" in body
    assert f"{reverse('ratings:pairs', args=[project.slug])}?author=model-1" in body
    # A version that was trained on everything ranks nobody.
    everything = dict.fromkeys(project.responses.all(), 5.0)
    make_version(project, everything, method="bt", split=Prediction.Split.TRAIN)
    part = client.get(f"{address(project)}?method=bt", headers={"HX-Request": "true"})
    assert words(part).startswith('<div id="rows">')
    assert "ranks nobody: it was trained on all of these judgements" in words(part)


def test_too_few_prompts_have_no_interval(
    project: Project,
    researcher: User,
    annotator: User,
    client_of: Callable[[User], Client],
    make_prompt: Callable[..., Prompt],
    judge: Callable[..., Any],
) -> None:
    client = client_of(researcher)
    assert "No two authors can be compared yet." in words(client.get(address(project)))
    make_prompt(project, "one", ["One.", "Two."])
    judge(Pair.objects.get(), annotator, "a")
    assert "No interval is told: the judgements are of 1 prompt only." in words(client.get(address(project)))
    Response.objects.update(author="")
    judge(Pair.objects.get(), researcher, "b")
    body = words(client.get(address(project)))
    assert "The judged responses do not say who wrote them" in body
    assert "2 judgements of responses without an author." in body


def test_the_file_has_a_row_an_author(
    project: Project,
    judged: list[Pair],
    version: ModelVersion,
    researcher: User,
    client_of: Callable[[User], Client],
) -> None:
    Response.objects.filter(author="model-3").update(author="=1+1")
    answer = client_of(researcher).get(address(project, "leaderboard-csv"))
    assert answer["Content-Disposition"] == 'attachment; filename="capitals-leaderboard.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.content.decode())))
    assert [row["author"] for row in rows] == ["model-1", "model-2", "'=1+1"]
    assert rows[0]["won"] == "28"
    assert rows[0]["model"] == version.address
    assert rows[0]["rank_difference"] == "-1"
    assert float(rows[0]["elo_low"]) < float(rows[0]["elo"]) < float(rows[0]["elo_high"])


@pytest.mark.parametrize("name", ["leaderboard", "leaderboard-csv"])
def test_annotators_never_see_who_wrote_what(
    name: str,
    project: Project,
    judged: list[Pair],
    annotator: User,
    admin: User,
    researcher: User,
    stranger: User,
    client_of: Callable[[User], Client],
) -> None:
    refused = client_of(annotator).get(address(project, name))
    assert refused.status_code == 403
    assert "model-1" not in refused.content.decode()
    assert (
        "leaderboard" not in client_of(annotator).get(f"/p/{project.slug}/history/").content.decode().lower()
    )
    assert client_of(stranger).get(address(project, name)).status_code == 404
    assert Client().get(address(project, name)).status_code == 302
    for user in (admin, researcher):
        assert "model-1" in client_of(user).get(address(project, name)).content.decode()
