"""Which rows the lists show and in which order."""

from collections.abc import Callable
from typing import Any

import pytest
from django.http import QueryDict

from webapp.accounts.models import User
from webapp.corpus.models import Pair, Project, Prompt, Response
from webapp.ratings.lists import pair_page, pairs_ordered, response_page
from webapp.ratings.lists_query import (
    PAIR_SORTS,
    PAIR_STATES,
    PAIRS,
    RESPONSES,
    Query,
    sort_links,
)
from webapp.ratings.models import Prediction
from webapp.ratings.paging import Count, Link, Place, place_in
from webapp.training.models import ModelVersion


def asking(text: str = "", **changes: str) -> Query:
    """The query of a pairs page with this query string."""
    parameters = QueryDict(text, mutable=True)
    for name, value in changes.items():
        parameters[name] = value
    return Query.of(parameters, PAIRS, rated=True)


@pytest.fixture
def people(make_user: Callable[..., User]) -> list[User]:
    return [make_user(name) for name in ("p1", "p2", "p3", "p4")]


@pytest.fixture
def pairs(
    project: Project, people: list[User], make_prompt: Callable[..., Prompt], judge: Callable[..., Any]
) -> dict[str, Pair]:
    """Five pairs: agreed 4:0, split 2:2, nearly 3:1, once 1:0, and one that nobody judged."""
    verdicts = {"agreed": "aaaa", "split": "aabb", "nearly": "aaab", "once": "a", "nobody": ""}
    found = {}
    for name, votes in verdicts.items():
        make_prompt(project, name, [f"First of {name}.", f"Second of {name}."])
        found[name] = Pair.objects.get(response_a__prompt__external_id=name)
        for person, verdict in zip(people, votes, strict=False):
            judge(found[name], person, verdict)
    return found


@pytest.fixture
def version(
    project: Project, pairs: dict[str, Pair], make_version: Callable[..., ModelVersion]
) -> ModelVersion:
    """A Bradley-Terry version: sure of a for "nearly" and "split", of b for "agreed", and unsure about "once"."""
    gap = {"agreed": -8.0, "split": 8.0, "nearly": 8.0, "once": 1.0, "nobody": 3.0}
    scores: dict[Response, float] = {}
    for name, pair in pairs.items():
        scores |= {pair.response_a: gap[name], pair.response_b: 0.0}
    return make_version(project, scores, method="bt")


def names(page: Any) -> list[str]:
    return [row.pair.response_a.prompt.external_id for row in page.object_list]


def test_pairs_sort_by_disagreement_among_people(project: Project, pairs: dict[str, Pair]) -> None:
    # 2:2 disagrees in 4 of 6 couples of people, 3:1 in 3 of 6; where nothing can be said, last in either direction.
    page = pair_page(project, asking(sort="-people"), None)
    assert names(page) == ["split", "nearly", "agreed", "once", "nobody"]
    assert [row.votes.disagreement for row in page.object_list] == [
        pytest.approx(2 / 3), pytest.approx(1 / 2), 0, None, None,
    ]  # fmt: skip
    assert names(pair_page(project, asking(sort="people"), None)) == [
        "agreed",
        "nearly",
        "split",
        "once",
        "nobody",
    ]


def test_pairs_sort_by_disagreement_with_the_model(
    project: Project, pairs: dict[str, Pair], version: ModelVersion
) -> None:
    # One vote is no comparison: "once" comes after all that have more, in either direction.
    page = pair_page(project, asking(sort="-model"), version)
    assert names(page) == ["agreed", "split", "nearly", "once", "nobody"]
    assert [row.gap for row in page.object_list][:4] == [
        pytest.approx(gap, abs=1e-3) for gap in (1.0, 0.5, 0.25, 0.269)
    ]
    assert names(pair_page(project, asking(sort="model"), version)) == [
        "nearly", "split", "agreed", "once", "nobody",
    ]  # fmt: skip
    # Without a model nothing can be compared, and the page still has all pairs.
    assert len(names(pair_page(project, asking(sort="-model"), None))) == 5


def test_a_new_vote_moves_a_pair_at_once(
    project: Project,
    pairs: dict[str, Pair],
    version: ModelVersion,
    people: list[User],
    judge: Callable[..., Any],
) -> None:
    assert names(pair_page(project, asking(sort="-model"), version))[-1] == "nobody"
    judge(pairs["nobody"], people[0], "b")
    assert names(pair_page(project, asking(sort="-model"), version))[3] == "nobody"
    judge(pairs["nobody"], people[1], "b")
    assert names(pair_page(project, asking(sort="-model"), version))[1] == "nobody"


def test_what_the_model_was_trained_on_comes_after_what_it_was_not(
    project: Project, pairs: dict[str, Pair], version: ModelVersion
) -> None:
    version.predictions.filter(response=pairs["agreed"].response_a).update(split=Prediction.Split.TRAIN)
    assert names(pair_page(project, asking(sort="-model"), version))[:3] == ["split", "nearly", "agreed"]


def test_a_place_in_a_list_has_its_neighbours(project: Project, pairs: dict[str, Pair]) -> None:
    query = asking(sort="-judged", state="split")
    ordered = pairs_ordered(project, query, None)
    first, last = ordered.keys
    assert place_in(ordered, first) == Place(first, number=1, total=Count(2), previous=None, next=last)
    assert place_in(ordered, last) == Place(last, number=2, total=Count(2), previous=first, next=None)
    assert place_in(ordered, pairs["nobody"].pk) is None
    assert Place(7, number=21, total=Count(40), previous=1, next=3).link == Link(page=2)


def test_pairs_sort_by_judgements_and_by_time(project: Project, pairs: dict[str, Pair]) -> None:
    assert names(pair_page(project, asking(sort="-judged"), None)) == [
        "agreed",
        "split",
        "nearly",
        "once",
        "nobody",
    ]
    assert names(pair_page(project, asking(sort="judged"), None))[:2] == ["nobody", "once"]
    assert names(pair_page(project, asking(sort="-added"), None))[0] == "nobody"
    assert names(pair_page(project, asking(sort="-judged", state="split"), None)) == ["split", "nearly"]
    assert names(pair_page(project, asking(sort="added", state="split"), None)) == ["split", "nearly"]


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("", {"agreed", "split", "nearly", "once", "nobody"}),
        ("split", {"split", "nearly"}),
        ("unanimous", {"agreed"}),
        ("several", {"agreed", "split", "nearly"}),
        ("enough", {"agreed", "split", "nearly"}),
        ("wanting", {"once", "nobody"}),
        ("unjudged", {"nobody"}),
    ],
)
def test_pairs_can_be_narrowed_by_state(
    state: str, expected: set[str], project: Project, pairs: dict[str, Pair]
) -> None:
    assert set(names(pair_page(project, asking(state=state), None))) == expected


def test_skips_and_superseded_words_do_not_count(
    project: Project, pairs: dict[str, Pair], people: list[User], judge: Callable[..., Any]
) -> None:
    judge(pairs["once"], people[1], "skip")
    judge(pairs["once"], people[2], "b", is_current=False)
    page = pair_page(project, asking(sort="-people", q="of once"), None)
    assert page.object_list[0].votes.total == 1


def test_search_finds_texts_authors_ids_and_prompts(
    project: Project, pairs: dict[str, Pair], make_prompt: Callable[..., Prompt]
) -> None:
    def found(text: str) -> list[str]:
        return names(pair_page(project, asking(q=text), None))

    assert found("second of SPLIT") == ["split"]
    assert found("Question nearly") == ["nearly"]
    assert found("agreed-r1") == ["agreed"]
    assert len(found("model-2")) == 5
    assert found("100 %") == []
    odd = make_prompt(project, "odd", ["Yes.", "No."])
    odd.messages = [{"role": "user", "content": 'Größer als "null"?'}]
    odd.save()
    assert found("Größer") == ["odd"]
    assert found('als "null"') == ["odd"]
    one = pairs["split"].response_b_id
    assert names(pair_page(project, asking(response=str(one)), None)) == ["split"]


def test_another_projects_rows_never_show(
    project: Project, pairs: dict[str, Pair], make_prompt: Callable[..., Prompt]
) -> None:
    other = Project.objects.create(slug="other", name="Other")
    make_prompt(other, "theirs", ["First of theirs.", "Second of theirs."])
    assert names(pair_page(other, asking(), None)) == ["theirs"]
    assert "theirs" not in names(pair_page(project, asking(q="first"), None))
    page = response_page(other, Query.of(QueryDict(), RESPONSES, rated=True), None)
    assert {row.response.project_id for row in page.object_list} == {other.pk}


def test_responses_sort_by_prediction_and_by_people(
    project: Project,
    make_prompt: Callable[..., Prompt],
    people: list[User],
    make_version: Callable[..., ModelVersion],
    rate: Callable[..., Any],
) -> None:
    one, two, three = make_prompt(project, "p", ["One.", "Two.", "Three."]).responses.order_by("pk")
    version = make_version(project, {one: 3.0, two: 8.0})
    other = make_version(project, {one: 9.0, two: 1.0, three: 5.0}, method="rgft")
    rate(one, people[0], "good")
    rate(one, people[1], "normal")
    rate(three, people[0], "bad")
    rate(three, people[1], "good", is_current=False)

    def order(sort: str, by: ModelVersion | None) -> list[Response]:
        parameters = QueryDict(f"sort={sort}")
        page = response_page(project, Query.of(parameters, RESPONSES, rated=True), by)
        return [row.response for row in page.object_list]

    # Not rated by this version: last in either direction.
    assert order("-score", version) == [two, one, three]
    assert order("score", version) == [one, two, three]
    assert order("-score", other) == [one, three, two]
    assert order("-level", version) == [one, three, two]
    assert order("level", version) == [three, one, two]
    assert order("-labels", version)[0] == one
    assert order("-added", version) == [three, two, one]
    assert len(order("-score", None)) == 3


@pytest.mark.parametrize(
    "text",
    [
        "sort=nonsense",
        "sort=--people",
        "state=x",
        "page=-1",
        "page=99999",
        "page=²",
        "response=abc",
        "q=%00",
        "q=%25%5F\\",
    ],
)
def test_nonsense_in_the_query_string_breaks_nothing(
    text: str, project: Project, pairs: dict[str, Pair]
) -> None:
    query = asking(text)
    assert query.sort in PAIR_SORTS
    assert query.state in PAIR_STATES
    pair_page(project, query, None)


def test_the_sort_in_use_turns_round() -> None:
    links = {link["label"]: link for link in sort_links(asking("sort=-model"), PAIR_SORTS)}
    assert links["Model against people"]["value"] == "model"
    assert links["Model against people"]["current"]
    assert links["Judgements"]["value"] == "-judged"
    again = {link["label"]: link for link in sort_links(asking("sort=model"), PAIR_SORTS)}
    assert again["Model against people"]["value"] == "-model"
