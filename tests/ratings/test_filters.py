"""Each filter of the lists on a small project made by hand; the address bar holds them; who may use them."""

from collections.abc import Callable
from typing import Any

import pytest
from django.http import QueryDict
from django.test import Client
from django.urls import reverse

from webapp.accounts.models import User
from webapp.corpus.models import Pair, Project, Prompt, Response
from webapp.ratings import paging
from webapp.ratings.lists import pairs_ordered, responses_ordered
from webapp.ratings.lists_query import PAIRS, RESPONSES, Query
from webapp.ratings.models import Prediction
from webapp.ratings.paging import Count, Link, Ordered, page_of, place_in
from webapp.training.models import ModelVersion


@pytest.fixture
def people(project: Project, make_user: Callable[..., User]) -> list[User]:
    return [make_user(f"p{number}", project, "annotator") for number in range(1, 6)]


@pytest.fixture
def labelled(
    project: Project,
    people: list[User],
    make_prompt: Callable[..., Prompt],
    judge: Callable[..., Any],
    rate: Callable[..., Any],
) -> dict[str, Pair]:
    """Pairs by name with votes and levels (of a, of b); author model-1 is a, model-2 is b, model-3 stands in "odd"."""
    votes = {
        "sure": "aaaaa",
        "near": "aaabb",
        "lean": "aaaab",
        "ties": "tt",
        "once": "b",
        "none": "",
        "odd": "bb",
    }
    levels = {"sure": ("ggb", "b"), "near": ("gb", ""), "lean": ("nn", "gg"), "odd": ("", "n")}
    verdicts, words = {"a": "a", "b": "b", "t": "tie"}, {"g": "good", "n": "normal", "b": "bad"}
    pairs = {}
    for name, said in votes.items():
        prompt = make_prompt(project, name, [f"First of {name}.", f"Second of {name}, which is longer."])
        pair = pairs[name] = Pair.objects.get(response_a__prompt=prompt)
        for person, verdict in zip(people, said, strict=False):
            judge(pair, person, verdicts[verdict])
        for response, given in zip(
            (pair.response_a, pair.response_b), levels.get(name, ("", "")), strict=True
        ):
            for person, level in zip(people, given, strict=False):
                rate(response, person, words[level])
    Response.objects.filter(pk=pairs["odd"].response_b_id).update(author="model-3")
    return pairs


@pytest.fixture
def version(
    project: Project, labelled: dict[str, Pair], make_version: Callable[..., ModelVersion]
) -> ModelVersion:
    """Prefers b everywhere but in "odd". Trained on "near", held out by a fold on "sure", never saw "none"."""
    ratings = {}
    for name, pair in labelled.items():
        if name != "once":
            ratings |= {pair.response_a: 8.0 if name == "odd" else 2.0, pair.response_b: 5.0}
    made = make_version(project, ratings)
    for name, split in (
        ("near", Prediction.Split.TRAIN), ("sure", Prediction.Split.CROSSFIT), ("none", Prediction.Split.UNLABELLED),
    ):  # fmt: skip
        both = (labelled[name].response_a, labelled[name].response_b)
        made.predictions.filter(response__in=both).update(split=split)
    return made


ALL = {"sure", "near", "lean", "ties", "once", "none", "odd"}


BY_PAIR: list[tuple[str, set[str]]] = [
    ("", ALL),
    ("level=good", {"sure", "lean"}),
    ("level=bad", {"sure"}),
    ("level=disputed", {"sure", "near"}),
    ("level=none", {"near", "ties", "once", "none", "odd"}),
    ("author=model-3", {"odd"}),
    ("author=model-2", ALL - {"odd"}),
    ("author=model-3&rival=model-1", {"odd"}),
    ("author=model-3&rival=model-2", set()),
    ("rival=model-3", {"odd"}),
    ("author=nobody", set()),
    ("annotator=P5", {"sure", "near", "lean"}),
    ("annotator=P1", ALL - {"none"}),
    ("annotator=999999999", set()),
    ("votes=even", {"near"}),
    ("votes=leaning", {"lean"}),
    ("votes=clear", {"sure", "odd"}),
    ("state=unjudged", {"none"}),
    # Cross-fitted and unlabelled ones are held out too; "once" is not rated.
    ("split=held_out", {"sure", "lean", "ties", "none", "odd"}),
    ("split=train", {"near"}),
    # Two votes or more, held out, and a side that most people take.
    ("model=against", {"sure", "lean", "odd"}),
    ("model=against&trained=1", {"sure", "lean", "odd", "near"}),
    ("model=with", set()),
    ("model=against&author=model-3&votes=clear", {"odd"}),
    ("q=of+odd&level=normal", {"odd"}),
]
BY_RESPONSE: list[tuple[str, set[str]]] = [
    ("level=good", {"sure-r1", "lean-r2"}),
    ("level=normal", {"lean-r1", "odd-r2"}),
    ("level=disputed", {"sure-r1", "near-r1"}),
    ("level=bad", {"sure-r2"}),
    ("author=model-3", {"odd-r2"}),
    ("state=unlabelled", {"none-r1", "none-r2"}),
    ("state=labelled&author=model-3", {"odd-r2"}),
    ("split=held_out&q=of+sure", {"sure-r1", "sure-r2"}),
    ("split=train", {"near-r1", "near-r2"}),
    ("split=unlabelled", {"none-r1", "none-r2"}),
    ("split=unrated", {"once-r1", "once-r2"}),
    ("annotator=P5", {"sure-r1", "sure-r2", "near-r1", "near-r2", "lean-r1", "lean-r2"}),
    ("annotator=P3&level=disputed", {"sure-r1", "near-r1"}),
    ("level=none&annotator=P5", {"near-r2"}),
]


def asking(asked: str, people: list[User]) -> str:
    """P3 stands for the key of the third person."""
    for number, person in enumerate(people, start=1):
        asked = asked.replace(f"P{number}", str(person.pk))
    return asked


def test_pairs_by_each_filter_under_each_sort(
    project: Project, people: list[User], labelled: dict[str, Pair], version: ModelVersion
) -> None:
    names = {pair.pk: name for name, pair in labelled.items()}
    for asked, expected in BY_PAIR:
        for sort in PAIRS.sorts:
            query = Query.of(QueryDict(f"{asking(asked, people)}&sort=-{sort}"), PAIRS, rated=True)
            assert not query.ignored
            found = [names[pk] for pk in pairs_ordered(project, query, version).keys]
            assert sorted(found) == sorted(expected), (asked, sort)


def test_responses_by_each_filter_under_each_sort(
    project: Project, people: list[User], labelled: dict[str, Pair], version: ModelVersion
) -> None:
    names = dict(project.responses.values_list("pk", "external_id"))
    for asked, expected in BY_RESPONSE:
        for sort in RESPONSES.sorts:
            query = Query.of(QueryDict(f"{asking(asked, people)}&sort=-{sort}"), RESPONSES, rated=True)
            assert not query.ignored
            found = [names[pk] for pk in responses_ordered(project, query, version).keys]
            assert sorted(found) == sorted(expected), (asked, sort)


def test_pages_beyond_the_numbered_ones_leave_out_nothing_and_repeat_nothing(
    project: Project, labelled: dict[str, Pair], version: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under every sort, both ways: forwards by the links from page to page, and back again."""
    monkeypatch.setattr(paging, "PER_PAGE", 3)
    monkeypatch.setattr(paging, "NUMBERED", 1)
    monkeypatch.setattr(paging, "MOST", 3)

    def walked(ordered: Ordered) -> list[int]:
        page = page_of(ordered, number=1, at=None, total=None)
        assert page.count == Count(3, more=True)
        found, back = [*page.object_list], []
        while page.next is not None:
            assert page.next.page is None
            page = page_of(ordered, number=1, at=page.next.at, total=None)
            found += page.object_list
        while page.previous is not None:
            page = page_of(ordered, number=1, at=page.previous.at, total=None)
            back = [*page.object_list, *back]
        assert back[: len(found) // 3 * 3] == found[: len(found) // 3 * 3]
        return found

    for listing, ordered in ((PAIRS, pairs_ordered), (RESPONSES, responses_ordered)):
        for sort in listing.sorts:
            for direction in ("", "-"):
                query = Query.of(QueryDict(f"sort={direction}{sort}"), listing, rated=True)
                asked = ordered(project, query, version)
                keys = list(asked.keys)
                assert walked(asked) == keys, (sort, direction)
                for index in (0, 2, 4):
                    place = place_in(asked, keys[index])
                    assert place is not None
                    assert place.number == (index + 1 if index < 3 else None)
                    assert place.link == (Link(at=keys[index]) if index >= 3 else Link(page=1))
                    assert (place.previous, place.next) == (
                        keys[index - 1] if index else None,
                        keys[index + 1],
                    )


def test_sorts_of_responses_and_pairs(
    project: Project, labelled: dict[str, Pair], version: ModelVersion
) -> None:
    names = dict(project.responses.values_list("pk", "external_id"))

    def order(sort: str) -> list[str]:
        query = Query.of(QueryDict(f"sort={sort}"), RESPONSES, rated=True)
        return [names[pk] for pk in responses_ordered(project, query, version).keys]

    assert order("length")[0] == "odd-r1"  # "First of odd."; its equal "First of sure." is longer
    assert order("-author")[0] == "odd-r2"
    # good 1, bad 1 has the largest variance, then two good and one bad; then one word, then nobody's.
    assert order("-split")[:2] == ["near-r1", "sure-r1"]
    # Expected levels: about 0.1 at rating 2, 1 at 5. People: lean-r2 2, lean-r1 1, sure-r1 4/3, sure-r2 0, odd-r2 1.
    # What the model was trained on (near-r1) comes after what it was not.
    gaps = order("-gap")
    assert gaps[0] == "sure-r1"
    assert set(gaps[1:4]) == {"lean-r1", "lean-r2", "sure-r2"}
    assert gaps[4:6] == ["odd-r2", "near-r1"]
    pairs = {pair.pk: name for name, pair in labelled.items()}
    query = Query.of(QueryDict("sort=-even"), PAIRS, rated=True)
    assert [pairs[pk] for pk in pairs_ordered(project, query, version).keys][:4] == [
        "near",
        "lean",
        "sure",
        "odd",
    ]


def test_what_is_not_known_is_left_out_and_said(
    project: Project, labelled: dict[str, Pair], researcher: User, client_of: Callable[[User], Client]
) -> None:
    asked = "level=x&split=held_out&votes=%00&annotator=abc&model=against&state=unjudged"
    query = Query.of(QueryDict(asked), PAIRS, rated=False)
    assert query.ignored == ("level", "split", "votes", "model", "annotator")
    assert (query.state, query.level, query.model, query.annotator) == ("unjudged", "", "", None)
    page = client_of(researcher).get(f"{reverse('ratings:pairs', args=[project.slug])}?{asked}")
    assert "Not known here, so left out: level, split, votes, model, annotator." in page.content.decode()
    assert page.context["page"].count.number == 1
    # Of responses there is neither a rival nor a split of votes.
    assert Query.of(QueryDict("rival=x&votes=even"), RESPONSES, rated=True).filters == 0


def test_the_address_bar_holds_the_filter(
    project: Project,
    labelled: dict[str, Pair],
    version: ModelVersion,
    researcher: User,
    client_of: Callable[[User], Client],
) -> None:
    client = client_of(researcher)
    asked = "author=model-3&rival=model-1&split=held_out&votes=clear&model=against&trained=1&level=normal"
    page = client.get(f"{reverse('ratings:pairs', args=[project.slug])}?{asked}&sort=-even")
    body = page.content.decode()
    assert "Filters (6 set)" in body
    assert "Clear all filters" in body
    for name in ("normal", "held_out", "clear", "against"):
        assert f'<option value="{name}" selected>' in body
    assert '<option value="model-3" selected>' in body
    assert 'name="trained" value="1" checked' in body
    # The row's link and, from the pair, the links beside it keep all of it.
    link = f"{reverse('ratings:pair', args=[project.slug, labelled['odd'].pk])}?{asked}&sort=-even"
    assert link.replace("&", "&amp;") in body
    assert client.get(link).context["place"].total == Count(1)
    query = Query.of(QueryDict("model=against&sort=-judged"), PAIRS, rated=True)
    place = place_in(pairs_ordered(project, query, version), labelled["sure"].pk)
    assert place is not None
    assert place.total == Count(3)
    # A shared pair that the filter does not have is still a page.
    other = f"{reverse('ratings:pair', args=[project.slug, labelled['once'].pk])}?{asked}"
    assert client.get(other).context["place"] is None


def test_an_empty_list_says_what_to_take_away(
    project: Project,
    labelled: dict[str, Pair],
    version: ModelVersion,
    researcher: User,
    client_of: Callable[[User], Client],
) -> None:
    client = client_of(researcher)
    body = client.get(f"/p/{project.slug}/pairs/?model=with").content.decode()
    assert "Also those it was trained on" in body
    body = client.get(f"/p/{project.slug}/responses/?author=nobody").content.decode()
    assert "Take a filter away" in body
    assert '<option value="nobody" selected>' in body


def test_filters_show_authors_to_those_who_may_see_them_alone(
    project: Project,
    labelled: dict[str, Pair],
    annotator: User,
    researcher: User,
    client_of: Callable[[User], Client],
) -> None:
    for name in ("responses", "pairs"):
        refused = client_of(annotator).get(f"/p/{project.slug}/{name}/?author=model-1")
        assert refused.status_code == 403
        assert "model-1" not in refused.content.decode()
        assert (
            '<option value="model-1"'
            in client_of(researcher).get(f"/p/{project.slug}/{name}/").content.decode()
        )


def test_many_authors_are_written_not_chosen(
    project: Project,
    make_prompt: Callable[..., Prompt],
    researcher: User,
    client_of: Callable[[User], Client],
) -> None:
    make_prompt(project, "many", [f"Text {number}" for number in range(101)], pairs=False)
    page = client_of(researcher).get(f"/p/{project.slug}/responses/?author=model-7")
    assert '<input type="text" name="author" value="model-7"' in page.content.decode()
    assert page.context["page"].count.number == 1


def test_of_many_annotators_the_busiest_are_offered_and_the_chosen_one(
    project: Project,
    labelled: dict[str, Pair],
    people: list[User],
    researcher: User,
    client_of: Callable[[User], Client],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("webapp.ratings.queries.MENU", 2)
    client = client_of(researcher)

    def offered(asked: str) -> list[str]:
        page = client.get(f"/p/{project.slug}/pairs/{asked}")
        return [name for _, name in page.context["annotators"]]

    assert offered("") == ["p1", "p2"]
    assert offered(f"?annotator={people[4].pk}") == ["p1", "p2", "p5"]
    assert offered("?annotator=999999999") == ["p1", "p2", "somebody who labelled nothing here"]
    page = client.get(f"/p/{project.slug}/people/{people[4].pk}/judgements/").content.decode()
    assert f"/p/{project.slug}/pairs/?annotator={people[4].pk}" in page
