"""The pages of ratings: who sees them, what they say, how many queries they take."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from tests.ratings.conftest import METRICS
from webapp.accounts.models import User
from webapp.corpus.models import Pair, Project, Prompt
from webapp.ratings import tallies
from webapp.ratings.models import Prediction
from webapp.training.models import ModelVersion, TrainingRun

HTMX = {"HX-Request": "true"}


@pytest.fixture
def prompt(project: Project, make_prompt: Callable[..., Prompt]) -> Prompt:
    return make_prompt(project, "paris", ["Paris.", "It is Lyon.", "I will not say."])


@pytest.fixture
def pair(prompt: Prompt) -> Pair:
    return Pair.objects.get(external_id="paris-r1:paris-r2")


@pytest.fixture
def version(project: Project, prompt: Prompt, make_version: Callable[..., ModelVersion]) -> ModelVersion:
    return make_version(project, dict(zip(prompt.responses.order_by("pk"), [7.5, 3.0, 2.0], strict=True)))


def url(name: str, project: Project, *arguments: Any) -> str:
    return reverse(f"ratings:{name}", args=[project.slug, *arguments])


def text_of(page: Any) -> str:
    """A page's words with single spaces."""
    return " ".join(page.content.decode().split())


# --- Who ---


@pytest.mark.parametrize("name", ["project", "responses", "response", "response-methods", "pairs", "pair"])
def test_researchers_and_admins_see_it_and_nobody_else(
    name: str,
    project: Project,
    pair: Pair,
    version: ModelVersion,
    annotator: User,
    admin: User,
    researcher: User,
    stranger: User,
    client_of: Callable[[User], Client],
) -> None:
    arguments = {
        "response": [pair.response_a_id], "response-methods": [pair.response_a_id], "pair": [pair.pk],
    }.get(name, [])  # fmt: skip
    address = url(name, project, *arguments)
    assert client_of(researcher).get(address).status_code == 200
    assert client_of(admin).get(address).status_code == 200
    refused = client_of(annotator).get(address)
    assert refused.status_code == 403
    assert "sway" in refused.content.decode()
    assert client_of(stranger).get(address).status_code == 404
    anonymous = Client().get(address)
    assert anonymous.status_code == 302
    assert anonymous["Location"].startswith("/sign-in/")


def test_a_response_or_pair_of_another_project_is_not_found(
    project: Project, pair: Pair, researcher: User, client_of: Callable[[User], Client]
) -> None:
    other = Project.objects.create(slug="other", name="Other")
    researcher.memberships.create(project=other, role="researcher")
    client = client_of(researcher)
    assert client.get(url("response", other, pair.response_a_id)).status_code == 404
    assert client.get(url("response-methods", other, pair.response_a_id)).status_code == 404
    assert client.get(url("pair", other, pair.pk)).status_code == 404
    assert client.get(url("pair", project, 10**9)).status_code == 404


# --- Response ---


def test_a_response_shows_the_distribution_beside_the_labels(
    project: Project,
    pair: Pair,
    version: ModelVersion,
    researcher: User,
    annotator: User,
    make_user: Callable[..., User],
    client_of: Callable[[User], Client],
    judge: Callable[..., Any],
    rate: Callable[..., Any],
) -> None:
    second = make_user("bea")
    judge(pair, annotator, "a")
    judge(pair, second, "tie")
    rate(pair.response_a, annotator, "good")
    rate(pair.response_a, second, "normal")
    page = client_of(researcher).get(url("response", project, pair.response_a_id))
    body = text_of(page)
    prediction = Prediction.objects.get(response=pair.response_a)
    assert f"{prediction.expected:.1f}" in body
    assert "percentile 100" in body
    assert "model-1" in body
    assert len(page.context["strip"].halves[0].bars) == 9
    assert body.count('<g class="bar') == 9
    assert "1 of 2, 50 %" in body
    assert "anna" in body
    assert "bea" in body
    assert "Held out: the model has not seen this response's labels." in body
    # Outcomes are oriented to this response, and so is P(preferred).
    assert "won 1 · tie 1 · lost 0" in body
    first = next(item for item in page.context["pairs"] if item["pair"] == pair)
    assert first["outcome"].preferred > 0.9
    assert f"P(preferred) {100 * first['outcome'].preferred:.0f} %" in body

    mirrored = client_of(researcher).get(url("response", project, pair.response_b_id))
    assert "won 0 · tie 1 · lost 1" in text_of(mirrored)
    item = next(item for item in mirrored.context["pairs"] if item["pair"] == pair)
    assert item["outcome"].preferred == pytest.approx(1 - first["outcome"].preferred)


def test_it_says_when_the_model_was_trained_on_these_labels(
    project: Project,
    prompt: Prompt,
    researcher: User,
    annotator: User,
    client_of: Callable[[User], Client],
    make_version: Callable[..., ModelVersion],
    rate: Callable[..., Any],
) -> None:
    response = prompt.responses.order_by("pk")[0]
    yesterday = timezone.now() - timedelta(days=1)
    trained = make_version(project, {response: 7.0}, split=Prediction.Split.TRAIN, snapshot_at=yesterday)
    rate(response, annotator, "good")
    body = text_of(client_of(researcher).get(url("response", project, response.pk)))
    assert "Trained on these labels: the model has seen them." in body
    assert f"run {trained.run_id}" in body
    assert f"v{trained.number}" in body
    assert "1 level came in after its snapshot" in body


def test_a_cross_fitted_prediction_is_shown_as_held_out(
    project: Project,
    pair: Pair,
    researcher: User,
    annotator: User,
    client_of: Callable[[User], Client],
    make_version: Callable[..., ModelVersion],
    rate: Callable[..., Any],
    judge: Callable[..., Any],
) -> None:
    response = pair.response_a
    make_version(project, {response: 7.0, pair.response_b: 3.0}, split=Prediction.Split.CROSSFIT)
    rate(response, annotator, "good")
    judge(pair, annotator, "a")
    client = client_of(researcher)
    title = "cross-fitted: predicted by a model that was not trained on this response's labels"
    page = client.get(url("response", project, response.pk))
    assert "Held out: this prediction has not seen this response's labels." in text_of(page)
    assert title in page.content.decode()
    for address in (url("responses", project), url("pair", project, pair.pk)):
        page = client.get(address)
        assert "held out" in text_of(page)
        assert title in page.content.decode()
    assert not client.get(url("pairs", project)).context["rows"][0]["row"].seen
    assert not client.get(url("pair", project, pair.pk)).context["outcomes"][0]["seen"]


def test_each_method_has_a_tab_and_the_main_one_comes_first(
    project: Project,
    prompt: Prompt,
    version: ModelVersion,
    researcher: User,
    client_of: Callable[[User], Client],
    make_version: Callable[..., ModelVersion],
) -> None:
    responses = list(prompt.responses.order_by("pk"))
    bt = make_version(project, dict(zip(responses, [1.25, -0.5, -2.0], strict=True)), method="bt")
    make_version(project, {responses[0]: 5.0}, method="rgft", is_serving=False)
    client = client_of(researcher)
    address = url("response", project, responses[0].pk)
    page = client.get(address)
    assert page.context["shown"].serving == [version, bt]
    assert page.context["version"] == version
    assert "?method=bt" in text_of(page)

    scalar = client.get(address, {"method": "bt"})
    body = text_of(scalar)
    assert scalar.context["version"] == bt
    assert "1.25" in body
    assert "percentile 100" in body
    assert "own scale" in body
    assert "strip" not in scalar.context
    assert [place.score for place in scalar.context["histogram"].places] == [1.25]

    part = client.get(address, {"method": "bt"}, headers=HTMX)
    assert part.content.decode().strip().startswith('<div id="rating"')
    assert "HX-Request" in part["Vary"]
    # Going back asks for the whole page again.
    restored = client.get(address, headers={**HTMX, "HX-History-Restore-Request": "true"})
    assert "<!doctype html>" in restored.content.decode()
    assert client.get(address, {"method": "nonsense"}).context["version"] == version


def test_without_model_and_labels_it_says_what_to_do(
    project: Project, prompt: Prompt, admin: User, researcher: User, client_of: Callable[[User], Client]
) -> None:
    address = url("response", project, prompt.responses.order_by("pk")[0].pk)
    body = text_of(client_of(admin).get(address))
    assert "No model rates this project yet." in body
    assert "Start a training" in body
    assert "Nobody has given this response a level yet." in body
    assert "no judgement yet" in body
    assert "An admin starts the first training" in text_of(client_of(researcher).get(address))


def test_levels_are_drawn_before_there_is_a_model(
    project: Project,
    prompt: Prompt,
    annotator: User,
    researcher: User,
    client_of: Callable[[User], Client],
    rate: Callable[..., Any],
) -> None:
    response = prompt.responses.order_by("pk")[0]
    rate(response, annotator, "bad")
    page = client_of(researcher).get(url("response", project, response.pk))
    half = page.context["strip"].halves[0]
    assert half.bars == ()
    assert [band.people for band in half.bands] == [1, 0, 0]


def test_a_response_newer_than_the_model_is_not_rated(
    project: Project,
    version: ModelVersion,
    researcher: User,
    client_of: Callable[[User], Client],
    make_prompt: Callable[..., Prompt],
) -> None:
    late = make_prompt(project, "late", ["One.", "Two."]).responses.order_by("pk")[0]
    assert "has not rated this response" in text_of(
        client_of(researcher).get(url("response", project, late.pk))
    )
    pair = Pair.objects.get(response_a=late)
    assert "not rated" in text_of(client_of(researcher).get(url("pair", project, pair.pk)))


# --- Which version, and which neighbours ---


RELATIVE = "Ratings here are relative: this model saw no levels."


@pytest.mark.parametrize(
    ("method", "training", "saw"),
    [
        ("oprm", {"levels": 0, "levelled": 0}, False),
        ("oprm", {}, False),
        ("oprm", {"levels": 12, "levelled": 12}, True),
        ("bt", {"levels": 0}, False),
        ("haf", {"levels": 0, "levelled": 0}, False),
        ("rgft", {"levels": 0}, True),  # before `levelled` was counted: it refused to start without
        ("rgft", {"levels": 0, "levelled": 7}, True),  # the paper's preset: levels in the regions alone
        ("rgft", {"levels": 0, "levelled": 0}, False),
    ],
)
def test_a_version_knows_whether_it_saw_levels(method: str, training: dict[str, int], saw: bool) -> None:
    assert ModelVersion(method=method, metrics={"training": training}).saw_levels is saw
    assert not ModelVersion(method="oprm", metrics={"training": None}).saw_levels


def test_a_version_that_saw_no_levels_has_no_bands_on_any_page(
    project: Project,
    pair: Pair,
    annotator: User,
    researcher: User,
    client_of: Callable[[User], Client],
    make_version: Callable[..., ModelVersion],
    rate: Callable[..., Any],
) -> None:
    ratings = {pair.response_a: 7.5, pair.response_b: 3.0}
    told = {**METRICS, "training": {"levels": 0, "levelled": 0}}
    relative = make_version(project, ratings, metrics=told)
    make_version(project, ratings, method="rgft")
    rate(pair.response_a, annotator, "good")
    client = client_of(researcher)
    for name, arguments in (
        ("response", [pair.response_a_id]),
        ("response-methods", [pair.response_a_id]),
        ("pair", [pair.pk]),
        ("responses", []),
        ("pairs", []),
    ):
        page = client.get(url(name, project, *arguments), {"method": "oprm"})
        assert text_of(page).count(RELATIVE) == 1, name
        # The comparison has the other version's bands: of one strip.
        bands = page.content.decode().count('<g class="band')
        assert bands == (3 if name == "response-methods" else 0), name
        assert "good" in text_of(page)  # what people said stands there in words all the same
        banded = client.get(url(name, project, *arguments), {"method": "rgft"})
        assert RELATIVE not in text_of(banded) or name == "response-methods"
        assert '<g class="band' in banded.content.decode()
    overview = text_of(client.get(url("project", project)))
    assert "none: this model saw no levels, so its ratings are relative" in overview
    assert overview.count("63.0 %") == 1  # the level accuracy of RgFT alone
    # What nobody rated yet has people's own scale.
    relative.predictions.all().delete()
    assert '<g class="band' in client.get(url("response", project, pair.response_a_id)).content.decode()


def test_any_version_can_be_chosen_and_stays_in_the_address(
    project: Project,
    pair: Pair,
    version: ModelVersion,
    researcher: User,
    client_of: Callable[[User], Client],
    make_version: Callable[..., ModelVersion],
) -> None:
    old = make_version(project, {pair.response_a: 2.0, pair.response_b: 8.0}, is_serving=False)
    other = Project.objects.create(slug="elsewhere", name="Elsewhere")
    foreign = make_version(other, {}, is_serving=False)
    client = client_of(researcher)
    asked = {"version": old.address}
    for name, arguments in (
        ("response", [pair.response_a_id]),
        ("pair", [pair.pk]),
        ("responses", []),
        ("pairs", []),
    ):
        page = client.get(url(name, project, *arguments), asked)
        assert page.context["version"] == old, name
        body = text_of(page)
        assert f'<option value="{old.address}" selected>' in body
        assert f"v{old.number} does not serve" in body
        assert f"version={old.address}" in body  # the links from here keep it
        for nothing in (foreign.address, "oprm-99999", "oprm-", "\x00"):
            assert (
                client.get(url(name, project, *arguments), {"version": nothing}).context["version"] == version
            )
    page = client.get(url("pair", project, pair.pk), asked)
    assert [row["version"] for row in page.context["outcomes"]] == [old, version]
    # A serving one chosen in the list is the one of its tab.
    page = client.get(url("responses", project), {"version": version.address})
    assert (page.context["version"], page.context["shown"].asked) == (version, "method=oprm")


def test_methods_stand_side_by_side_on_one_scale(
    project: Project,
    prompt: Prompt,
    version: ModelVersion,
    annotator: User,
    researcher: User,
    client_of: Callable[[User], Client],
    make_version: Callable[..., ModelVersion],
    rate: Callable[..., Any],
) -> None:
    response = prompt.responses.order_by("pk")[0]
    sharp = make_version(project, {response: 5.0}, method="rgft", split=Prediction.Split.TRAIN)
    Prediction.objects.filter(version=sharp).update(p=[0.0] * 4 + [0.9, 0.1] + [0.0] * 3)
    bt = make_version(project, {response: 1.25}, method="bt")
    old = make_version(project, {response: 2.0}, is_serving=False)
    late = make_version(project, {}, method="haf")
    rate(response, annotator, "good")
    client = client_of(researcher)
    assert url("response-methods", project, response.pk) in text_of(
        client.get(url("response", project, response.pk))
    )
    page = client.get(url("response-methods", project, response.pk), {"version": old.address})
    rows = {row["version"]: row for row in page.context["rows"]}
    assert list(rows)[:2] == [old, version]
    assert set(rows) == {old, version, sharp, bt, late}
    assert {rows[each]["strip"].top for each in (old, version, sharp)} == {1.0}
    assert rows[bt]["histogram"].places[0].score == 1.25
    body = text_of(page)
    for each in (version, sharp, old):
        prediction = each.predictions.get(response=response)
        assert f"{prediction.expected:.1f}</span> <span>± {prediction.spread:.1f} of 1–9" in body
    assert body.count("Trained on this response&#x27;s labels") == 1
    assert body.count("Held out of training") == 3
    assert "Not rated: the response came in after that training." in body
    assert "1 of 1, 100 %" in body
    # Without the older one the serving ones alone.
    page = client.get(url("response-methods", project, response.pk))
    assert old not in [row["version"] for row in page.context["rows"]]


def test_previous_and_next_stay_within_the_list_one_came_from(
    project: Project,
    prompt: Prompt,
    version: ModelVersion,
    researcher: User,
    client_of: Callable[[User], Client],
) -> None:
    client = client_of(researcher)
    asked = {"sort": "-added", "q": "i"}  # "It is Lyon." and "I will not say."; the newest first
    listed = client.get(url("responses", project), asked)
    keys = [row["row"].response.pk for row in listed.context["rows"]]
    assert f"{url('response', project, keys[0])}?sort=-added&amp;q=i" in text_of(listed)
    for name in ("response", "response-methods"):
        first, last = (client.get(url(name, project, keys[index]), asked) for index in (0, -1))
        assert first.context["place"].next == keys[1]
        assert f'<a rel="next" href="{url(name, project, keys[1])}?sort=-added&amp;q=i">' in text_of(first)
        assert 'rel="prev"' not in first.content.decode()
        assert f'<a rel="prev" href="{url(name, project, keys[-2])}?sort=-added&amp;q=i">' in text_of(last)
        assert 'rel="next"' not in last.content.decode()
        assert f"{url('responses', project)}?sort=-added&amp;q=i&amp;page=1" in text_of(first)
    nowhere = client.get(url("response", project, keys[0]), {"q": "no text says this"})
    assert nowhere.context["place"] is None
    assert "The list" in text_of(nowhere)

    listed = client.get(url("pairs", project), {"sort": "added"})
    keys = [row["row"].pair.pk for row in listed.context["rows"]]
    middle = client.get(url("pair", project, keys[1]), {"sort": "added"})
    assert (middle.context["place"].previous, middle.context["place"].next) == (keys[0], keys[2])
    # From a response one walks through its own pairs.
    response = prompt.responses.order_by("pk")[0]
    page = client.get(url("response", project, response.pk))
    link = f"{url('pair', project, keys[0])}?response={response.pk}&amp;sort=-judged"
    assert link in text_of(page)
    assert client.get(link.replace("&amp;", "&")).context["place"].total.number == 2


# --- Pair ---


def test_a_pair_shows_both_strips_every_judgement_and_every_method(
    project: Project,
    pair: Pair,
    version: ModelVersion,
    annotator: User,
    researcher: User,
    make_user: Callable[..., User],
    client_of: Callable[[User], Client],
    make_version: Callable[..., ModelVersion],
    judge: Callable[..., Any],
) -> None:
    bt = make_version(project, {pair.response_a: 1.0, pair.response_b: 0.0}, method="bt", tie=0.5)
    bea, cleo, dan = (make_user(name) for name in ("bea", "cleo", "dan"))
    judge(pair, annotator, "a", strength=2, comment="It names the capital.", left="b", reasons=["correct"])
    judge(pair, bea, "both_bad")
    judge(pair, cleo, "skip")
    old = judge(pair, dan, "b", is_current=False)
    judge(pair, dan, "a", supersedes=old)
    page = client_of(researcher).get(url("pair", project, pair.pk))
    body = text_of(page)
    assert [half.name for half in page.context["strip"].halves] == ["A", "B"]
    assert page.context["votes"].total == 3
    assert "A 2 · tie 0 · both bad 1 · B 0" in body
    assert "strength 2 of 3 · B stood left" in body
    assert "It names the capital." in body
    assert "reasons: correct" in body
    assert [judgement.verdict for judgement in page.context["earlier"]] == ["b"]
    assert "1 earlier word" in body
    predicted = {row["version"]: row["outcome"] for row in page.context["outcomes"]}
    assert set(predicted) == {version, bt}
    assert predicted[bt].tie > 0
    for outcome in predicted.values():
        assert f"P(A preferred) {100 * outcome.preferred:.0f} %" in body

    scalar = client_of(researcher).get(url("pair", project, pair.pk), {"method": "bt"})
    assert [place.name for place in scalar.context["histogram"].places] == ["A", "B"]


# --- Overview ---


def test_the_overview_adds_up(
    project: Project,
    pair: Pair,
    version: ModelVersion,
    annotator: User,
    admin: User,
    make_user: Callable[..., User],
    client_of: Callable[[User], Client],
    judge: Callable[..., Any],
    rate: Callable[..., Any],
) -> None:
    bea = make_user("bea")
    for each in Pair.objects.of(project):
        judge(each, annotator, "a")
    judge(pair, bea, "b")
    judge(Pair.objects.exclude(pk=pair.pk)[0], bea, "a")
    rate(pair.response_a, annotator, "good")
    rate(pair.response_a, bea, "good")
    rate(pair.response_b, annotator, "bad")
    rate(pair.response_b, bea, "normal")
    TrainingRun.objects.create(
        project=project,
        method="bt",
        trigger="labels",
        config={},
        config_digest="x",
        state="running",
        step=1,
        total=4,
        overall=25,
        started_at=timezone.now(),
    )
    page = client_of(admin).get(url("project", project))
    body = text_of(page)
    assert "judgements by 2 people" in body
    assert "pairs judged as often as wanted: 2 of 3" in body
    assert "67 %" in body
    assert "2 people labelled in the last hour" in body
    assert page.context["queue"].open == 1
    assert [day.judgements for day in page.context["labels"].days][-1] == 5
    assert [day.levels for day in page.context["labels"].days][-1] == 4
    verdicts, levels = (each["alpha"] for each in page.context["alphas"])
    assert verdicts.units == 2
    assert verdicts.value is not None
    assert levels.value > 0
    assert "78.1 %" in body
    assert "73.1 % to 82.2 %" in body
    assert "182 judgements" in body
    assert "0.561 nats" in body
    assert "at best 0.402" in body
    assert "4.7 %" in body
    assert "63.0 %" in body
    assert "25 %" in body
    assert page.context["steps"] == []


def test_an_empty_project_gets_first_steps(
    project: Project, admin: User, researcher: User, client_of: Callable[[User], Client]
) -> None:
    page = client_of(admin).get(url("project", project))
    # Somebody was invited: the researcher.
    assert [step.done for step in page.context["steps"]] == [False, True, False, False]
    assert all(step.url for step in page.context["steps"])
    body = text_of(page)
    assert "Import pairs to judge" in body
    assert "no unit has ratings by two people" in body
    assert "No label yet." in body
    # A researcher reads them, without links to what only admins may do.
    steps = client_of(researcher).get(url("project", project)).context["steps"]
    assert [bool(step.url) for step in steps] == [False, False, False, True]


def test_metrics_that_a_run_could_not_compute_are_not_shown_as_zero(
    project: Project, version: ModelVersion, researcher: User, client_of: Callable[[User], Client]
) -> None:
    for metrics in (
        {},
        {"held_out": None},
        {"held_out": {"pairs": None, "levels": None, "auroc_good_bad": None}},
    ):
        ModelVersion.objects.update(metrics={**metrics, "training": {"levels": 1}})
        body = text_of(client_of(researcher).get(url("project", project)))
        assert "no held-out judgement" in body
        assert "no held-out level" in body


# --- Hostile text ---


def test_hostile_text_stays_text_on_every_page(
    project: Project,
    researcher: User,
    annotator: User,
    client_of: Callable[[User], Client],
    make_prompt: Callable[..., Prompt],
    make_version: Callable[..., ModelVersion],
    judge: Callable[..., Any],
) -> None:
    evil = '<script>alert(1)</script><img src=x onerror=alert(2)> [x](javascript:alert(3))"><svg onload=alert(4)>'
    prompt = make_prompt(project, "evil", [evil, "Fine."])
    prompt.messages = [{"role": "user", "content": evil}]
    prompt.save()
    prompt.responses.update(author=evil[:200])
    one, two = prompt.responses.order_by("pk")
    pair = Pair.objects.get(response_a=one)
    pair.external_id = evil[:200]
    pair.save()
    make_version(project, {one: 9.0, two: 1.0})
    judge(pair, annotator, "a", comment=evil, reasons=[evil])
    client = client_of(researcher)
    addresses = [
        url("response", project, one.pk),
        url("pair", project, pair.pk),
        url("pairs", project),
        url("responses", project) + "?q=%3Cscript%3Ealert(1)",
        url("responses", project) + "?q=%22%3E%3Cscript%3Enothing",
        url("project", project),
    ]
    for address in addresses:
        body = client.get(address).content.decode()
        assert "<script>" not in body
        assert "<img" not in body
        assert "<svg onload" not in body
        assert 'href="javascript:' not in body
        assert " style=" not in body


# --- How many queries ---


def fill(
    project: Project,
    prompts: int,
    people: list[User],
    make_prompt: Callable[..., Prompt],
    make_version: Callable[..., ModelVersion],
    judge: Callable[..., Any],
    rate: Callable[..., Any],
) -> None:
    """`prompts` pairs with judgements and levels by everybody, and two versions that rate all responses."""
    for number in range(prompts):
        prompt = make_prompt(project, f"q{number:03}", ["One.", "Another one."])
        for response in prompt.responses.all():
            for person in people:
                rate(response, person, "good")
        for pair in Pair.objects.filter(response_a__prompt=prompt):
            for index, person in enumerate(people):
                judge(pair, person, "ab"[(number + index) % 2])
    responses = list(project.responses.all())
    make_version(project, {response: 1.0 + response.pk % 8 for response in responses})
    make_version(project, {response: response.pk % 7 for response in responses}, method="bt")


@pytest.mark.parametrize("prompts", [2, 50])
def test_query_counts_do_not_grow_with_the_rows(
    prompts: int,
    project: Project,
    researcher: User,
    make_user: Callable[..., User],
    client_of: Callable[[User], Client],
    make_prompt: Callable[..., Prompt],
    make_version: Callable[..., ModelVersion],
    judge: Callable[..., Any],
    rate: Callable[..., Any],
    django_assert_num_queries: Any,
) -> None:
    people = [make_user(name) for name in ("p1", "p2", "p3")]
    fill(project, prompts, people, make_prompt, make_version, judge, rate)
    pair = Pair.objects.of(project)[0]
    client = client_of(researcher)
    tallies.catch_up(project)
    tallies.compare_noted()
    visitor = 3  # session, user, project with roles
    expected = {
        url("responses", project): visitor + 14,
        url("responses", project) + "?sort=-level&q=one": visitor + 12,
        url("responses", project) + "?sort=-gap": visitor + 14,
        url("responses", project) + f"?level=good&split=held_out&annotator={people[0].pk}": visitor + 14,
        url("pairs", project): visitor + 13,
        url("pairs", project) + "?sort=-model": visitor + 15,
        url("pairs", project) + "?sort=judged&state=split&q=one": visitor + 15,
        url("pairs", project) + "?sort=judged&state=enough": visitor + 12,
        url("pairs", project) + "?model=against&votes=even&level=good&author=model-1&split=held_out": visitor
        + 11,
        # The list that it was opened from is asked for its neighbours and its length: keys alone.
        url("response", project, pair.response_a_id): visitor + 14,
        url("response", project, pair.response_a_id) + "?version=oprm-1": visitor + 14,
        # Levels and neighbours, and the scores of the scalar version that its histogram is made of.
        url("response-methods", project, pair.response_a_id): visitor + 13,
        # One of them asks what machine annotators answered.
        url("pair", project, pair.pk): visitor + 13,
        url("pair", project, pair.pk) + "?sort=added": visitor + 12,
        url("project", project): visitor + 17,
    }
    for address, queries in expected.items():
        with django_assert_num_queries(queries):
            assert client.get(address).status_code == 200
    # What is added up from all labels is kept; what the next label changes is counted for the page.
    with django_assert_num_queries(visitor + 15):
        client.get(url("pairs", project) + "?sort=-model")
    with django_assert_num_queries(visitor + 10):
        client.get(url("project", project))
    judge(pair, make_user("p4"), "tie")
    # SQLite is told how long to wait, and told back.
    with django_assert_num_queries(visitor + 44 + 2 * (connection.vendor == "sqlite")):
        client.get(url("pairs", project) + "?sort=-model")


def test_a_response_in_many_pairs_shows_the_most_judged_and_links_to_all(
    project: Project,
    researcher: User,
    client_of: Callable[[User], Client],
    make_prompt: Callable[..., Prompt],
    django_assert_num_queries: Any,
) -> None:
    prompt = make_prompt(project, "many", [f"Text {number}" for number in range(60)], pairs=False)
    first, *others = prompt.responses.order_by("pk")
    Pair.objects.bulk_create(
        Pair(project=project, external_id=f"m{number}", response_a=first, response_b=other)
        for number, other in enumerate(others)
    )
    client = client_of(researcher)
    with django_assert_num_queries(3 + 12):  # one of them asks whether there is any version, as none serves
        page = client.get(url("response", project, first.pk))
    assert len(page.context["pairs"]) == 50
    assert f"?response={first.pk}" in text_of(page)
    every = client.get(url("pairs", project), {"response": first.pk})
    assert every.context["page"].count.number == 59


@pytest.mark.parametrize("name", ["pairs", "responses"])
def test_a_lists_form_keeps_the_sort_and_method_in_use(
    name: str,
    project: Project,
    version: ModelVersion,
    researcher: User,
    client_of: Callable[[User], Client],
) -> None:
    """The form is part of what htmx swaps: otherwise a search would fall back to the sort of the first visit."""
    part = client_of(researcher).get(url(name, project), {"sort": "-added", "method": "oprm"}, headers=HTMX)
    body = text_of(part)
    assert body.startswith('<div id="rows">')
    assert '<input type="hidden" name="sort" value="-added">' in body
    assert '<input type="hidden" name="method" value="oprm">' in body


def test_long_lists_have_pages(
    project: Project,
    researcher: User,
    client_of: Callable[[User], Client],
    make_prompt: Callable[..., Prompt],
) -> None:
    make_prompt(project, "long", [f"Text {number}" for number in range(45)], pairs=False)
    client = client_of(researcher)
    first = client.get(url("responses", project), {"sort": "added", "q": "Text"})
    body = text_of(first)
    assert "45 responses" in body
    assert "Page 1 of 3" in body
    assert "?sort=added&amp;q=Text&amp;page=2" in body
    last = client.get(url("responses", project), {"sort": "added", "q": "Text", "page": "3"})
    assert len(last.context["rows"]) == 5
    assert 'rel="next"' not in last.content.decode()


@pytest.mark.parametrize("name", ["pairs", "responses"])
def test_empty_lists_say_what_to_do(
    name: str, project: Project, admin: User, researcher: User, client_of: Callable[[User], Client]
) -> None:
    assert "Import some" in text_of(client_of(admin).get(url(name, project)))
    assert "An admin imports them." in text_of(client_of(researcher).get(url(name, project)))
    assert "matches" in text_of(client_of(researcher).get(url(name, project), {"q": "zebra"}))


def test_a_model_that_does_not_serve_is_not_hidden(
    project: Project,
    prompt: Prompt,
    researcher: User,
    client_of: Callable[[User], Client],
    make_version: Callable[..., ModelVersion],
) -> None:
    make_version(project, {prompt.responses.order_by("pk")[0]: 5.0}, is_serving=False)
    assert "A model was trained, but none serves." in text_of(
        client_of(researcher).get(url("project", project))
    )


def test_every_picture_has_its_numbers_in_text(
    project: Project, pair: Pair, version: ModelVersion, researcher: User, client_of: Callable[[User], Client]
) -> None:
    for name, key in (("response", pair.response_a_id), ("pair", pair.pk)):
        body = text_of(client_of(researcher).get(url(name, project, key)))
        prediction = Prediction.objects.get(response=pair.response_a)
        assert prediction.p
        for share in prediction.p:
            assert f'<td class="numeric">{100 * share:.1f} %</td>' in body
