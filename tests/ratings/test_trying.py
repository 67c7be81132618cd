"""The page “Try it”: who may use it, what it says with and without a worker, and what an answer looks like."""

import json
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from tests.ratings.conftest import peaked
from tests.workers.conftest import private_redis  # noqa: F401 - a fixture
from webapp import heartbeat
from webapp.accounts.models import User
from webapp.corpus.models import Project, Prompt
from webapp.ratings import trying, views_trying
from webapp.ratings.probabilities import rating_quantile
from webapp.training.models import ModelVersion

HTMX = {"HX-Request": "true"}
ADDRESS = "/p/capitals/try/"
Say = Callable[..., None]


def row(value: float, shift: float = 0.0, *, scalar: bool = False, **more: Any) -> dict[str, Any]:
    """What a worker answers of one response: a distribution about `value`, or a scalar reward."""
    p = None if scalar else peaked(value)
    expected = sum(rating * share for rating, share in enumerate(p, start=1)) if p else None
    score = value if expected is None else expected
    return {
        "score": score, "expected": expected, "spread": None if scalar else 1.2, "p": p, "truncated": False,
        "tokens": 20, "unknown": 0, "cut": False, "claimed": score + shift, **more,
    }  # fmt: skip


@pytest.fixture
def say(private_redis: str, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Say:  # noqa: F811
    """A worker reads the queue: say(rows) is what it answers next; it is silent until then."""
    settings.REDIS_URL = private_redis
    with heartbeat.redis_client() as client:
        client.flushdb()
        client.hset(heartbeat.KEY, "score@host", json.dumps({"queues": ["score"], "at": time.time()}))
    answers: list[Any] = []

    def send_task(name: str, args: list[str], **options: Any) -> None:
        assert name == trying.TASK
        assert options["queue"] == "score"
        assert options["expires"] == trying.PATIENCE_SECONDS
        if answers:
            assert trying.trial_take(args[0]) is not None
            trying.trial_answer(args[0], **answers.pop(0))

    monkeypatch.setattr("webapp.celery.app.send_task", send_task)
    monkeypatch.setattr(views_trying, "WAIT_SECONDS", 0)
    return lambda rows=None, error="": answers.append({"rows": rows, "error": error})


@pytest.fixture
def version(
    project: Project, make_prompt: Callable[..., Prompt], make_version: Callable[..., ModelVersion]
) -> ModelVersion:
    prompt = make_prompt(project, "paris", ["Paris.", "It is Lyon.", "I will not say."])
    return on_disk(
        make_version(project, dict(zip(prompt.responses.order_by("pk"), [7.5, 3.0, 2.0], strict=True)))
    )


def on_disk(version: ModelVersion) -> ModelVersion:
    version.path.mkdir(parents=True)
    (version.path / "reward_config.json").write_text("{}")
    return version


def words(page: Any) -> str:
    """A page's words without its tags."""
    return " ".join(re.sub(r"<[^>]+>", " ", page.content.decode()).split())


def texts(chosen: ModelVersion, *responses: str, **more: Any) -> dict[str, Any]:
    boxes = {f"response_{number}": text for number, text in enumerate(responses, start=1)}
    return {"version": chosen.address, "prompt": "Which city?", **boxes, **more}


def token_in(page: Any) -> str:
    return re.findall(r"/try/([A-Za-z0-9_-]{20,})/", page.content.decode())[0]


# --- Who ---


def test_researchers_and_admins_use_it_and_nobody_else(
    version: ModelVersion,
    say: Say,
    annotator: User,
    admin: User,
    researcher: User,
    stranger: User,
    client_of: Callable[[User], Client],
) -> None:
    data = texts(version, "Paris.")
    for user in (researcher, admin):
        assert client_of(user).get(ADDRESS).status_code == 200
        assert client_of(user).post(ADDRESS, data).status_code == 200
    for user, status in ((annotator, 403), (stranger, 404)):
        assert client_of(user).get(ADDRESS).status_code == status
        assert client_of(user).post(ADDRESS, data).status_code == status
        assert client_of(user).get(f"{ADDRESS}token/").status_code == status
    assert Client().get(ADDRESS).status_code == 302


def test_a_result_is_for_who_asked_alone(
    version: ModelVersion, say: Say, admin: User, researcher: User, client_of: Callable[[User], Client]
) -> None:
    say([row(7.0)])
    token = token_in(client_of(researcher).post(ADDRESS, texts(version, "Paris.")))
    assert "Best of 1" in words(client_of(researcher).get(f"{ADDRESS}{token}/"))
    others = client_of(admin).get(f"{ADDRESS}{token}/")
    assert others.status_code == 404
    assert "for the person who asked alone" in words(others)
    assert "Best of" not in words(client_of(admin).get(f"{ADDRESS}{token}/", headers=HTMX))
    other = Project.objects.create(slug="other", name="Other")
    researcher.memberships.create(project=other, role="researcher")
    assert client_of(researcher).get(f"/p/other/try/{token}/").status_code == 404
    with heartbeat.redis_client() as client:
        client.delete(f"caliper:trial:{token}:about", f"caliper:trial:{token}:answer")
    gone = client_of(researcher).get(f"{ADDRESS}{token}/")
    assert gone.status_code == 404
    assert "kept for 10 minutes" in words(gone)


# --- Nobody answers ---


def test_without_a_worker_it_says_at_once_what_starts_one(
    version: ModelVersion, say: Say, researcher: User, client_of: Callable[[User], Client]
) -> None:
    with heartbeat.redis_client() as redis:
        redis.delete(heartbeat.KEY)
    client = client_of(researcher)
    for page in (client.get(ADDRESS), client.post(ADDRESS, texts(version, "Paris."))):
        assert page.status_code == 200
        assert "No worker reads the queue “score”" in words(page)
        assert "celery -A workers.tasks worker -Q score" in words(page)
    assert ">Paris.</textarea>" in page.content.decode().replace("\n", "")


def test_a_silent_broker_is_told(
    version: ModelVersion, settings: Any, researcher: User, client_of: Callable[[User], Client]
) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    client = client_of(researcher)
    for page in (
        client.get(ADDRESS),
        client.post(ADDRESS, texts(version, "Paris.")),
        client.get(f"{ADDRESS}x/"),
    ):
        assert "The broker (Redis) doesn&#x27;t answer" in words(page).replace("'", "&#x27;")


def test_it_waits_and_gives_up_in_words(
    version: ModelVersion,
    say: Say,
    researcher: User,
    client_of: Callable[[User], Client],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = client_of(researcher)
    page = client.post(ADDRESS, texts(version, "Paris."), headers=HTMX)
    token = token_in(page)
    assert "Waiting for the worker" in words(page)
    assert f'hx-get="{ADDRESS}{token}/"' in page.content.decode()
    assert "<html" not in page.content.decode()
    trying.trial_take(token)
    assert "loads it" in words(client.get(f"{ADDRESS}{token}/", headers=HTMX))
    monkeypatch.setattr(trying, "PATIENCE_SECONDS", 0)
    late = client.get(f"{ADDRESS}{token}/", headers=HTMX)
    assert "No answer in 0 s" in words(late)
    assert "the worker stopped while it read the texts" in words(late)
    assert "hx-trigger" not in late.content.decode()
    trying.trial_answer(token, error="reward_config.json is damaged; retrain")
    assert "retrain" in words(client.get(f"{ADDRESS}{token}/"))


def test_without_javascript_the_post_waits_for_the_answer(
    version: ModelVersion,
    say: Say,
    researcher: User,
    client_of: Callable[[User], Client],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(views_trying, "WAIT_SECONDS", 5)
    looked = []

    def sleep(seconds: float) -> None:
        looked.append(seconds)
        [token] = {name.split(":")[2] for name in keys() if name.startswith("caliper:trial:")}
        trying.trial_answer(token, rows=[row(7.0)])

    def keys() -> list[str]:
        with heartbeat.redis_client() as client:
            return list(client.scan_iter())

    monkeypatch.setattr("webapp.ratings.views_trying.time.sleep", sleep)
    page = client_of(researcher).post(ADDRESS, texts(version, "Paris."))
    assert len(looked) == 1
    assert "Best of 1" in words(page)
    assert ">Which city?</textarea>" in page.content.decode().replace("\n", "")


# --- What may be sent ---


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"response_1": ""}, "Paste at least one response."),
        ({"response_1": "a" * 100_001}, "Response 1: Ensure this value has at most 100000 characters"),
        ({"prompt": "a" * 100_001}, "Prompt: Ensure this value has at most 100000 characters"),
        ({"version": "oprm-99"}, "Model: Select a valid choice."),
        ({"prompt": "no list", "as_messages": "on"}, "Prompt: This is not JSON."),
        ({"prompt": "[" * 5000, "as_messages": "on"}, "Prompt: This is not JSON."),
        ({"prompt": '{"a": 1, "a": 2}', "as_messages": "on"}, "Write a list of {role, content} messages."),
        ({"prompt": '[{"role": "king", "content": "x"}]', "as_messages": "on"}, "Prompt: prompt[1].role is"),
        (
            {"prompt": '[{"role": "user", "content": "\\ud800"}]', "as_messages": "on"},
            "half of a surrogate pair",
        ),
    ],
)
def test_what_can_not_be_read_is_refused_with_its_field(
    more: dict[str, str],
    said: str,
    version: ModelVersion,
    say: Say,
    researcher: User,
    client_of: Callable[[User], Client],
) -> None:
    page = client_of(researcher).post(ADDRESS, texts(version, "Paris.", **more))
    assert said in words(page).replace("&#x27;", "'")
    with heartbeat.redis_client() as client:
        assert list(client.scan_iter("caliper:trial:*")) == []


def test_texts_arrive_as_they_were_pasted(
    version: ModelVersion, say: Say, researcher: User, client_of: Callable[[User], Client]
) -> None:
    client = client_of(researcher)

    def sent(**more: Any) -> dict[str, Any]:
        asked = trying.trial_take(token_in(client.post(ADDRESS, texts(version, **more))))
        assert asked is not None
        return asked

    asked = sent(response_2=" one\r\n two ", response_8="<b>字</b>")
    assert asked == {
        "version": version.pk,
        "messages": [{"role": "user", "content": "Which city?"}],
        "texts": [" one\n two ", "<b>字</b>"],
    }
    turns = [{"role": "system", "content": "Be brief."}, {"role": "human", "content": "Which?"}]
    asked = sent(response_1="x", prompt=json.dumps(turns), as_messages="on")
    assert asked["messages"] == [turns[0], {"role": "user", "content": "Which?"}]
    assert sent(response_1="x", prompt="")["messages"] == []


def test_too_often_is_too_often(
    version: ModelVersion,
    say: Say,
    researcher: User,
    client_of: Callable[[User], Client],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trying, "PER_MINUTE", 1)
    client = client_of(researcher)
    assert client.post(ADDRESS, texts(version, "Paris.")).status_code == 200
    second = client.post(ADDRESS, texts(version, "Paris."))
    assert second.status_code == 429
    assert "At most 1 trials a minute" in words(second)


def test_versions_whose_files_are_gone_can_not_be_chosen(
    project: Project,
    version: ModelVersion,
    make_version: Callable[..., ModelVersion],
    say: Say,
    researcher: User,
    client_of: Callable[[User], Client],
) -> None:
    older = on_disk(make_version(project, {}, is_serving=False))
    gone = make_version(project, {}, method="bt")
    writes = on_disk(make_version(project, {}, method="judge"))
    client = client_of(researcher)
    page = client.get(ADDRESS)
    options = re.findall(r'<option value="([^"]+)"', page.content.decode())
    assert options == [version.address, older.address]
    assert f"files are gone from the disk: {gone.short_method} v{gone.number}." in words(page)
    assert f"which takes longer than a page waits: Judge v{writes.number}." in words(page)
    options = re.findall(
        r'<option value="([^"]+)"', client.get(f"{ADDRESS}?version={older.address}").content.decode()
    )
    assert options == [older.address, version.address]
    assert "Select a valid choice" in words(client.post(ADDRESS, texts(gone, "x")))


def test_a_project_without_a_model_says_so(
    project: Project, say: Say, researcher: User, client_of: Callable[[User], Client]
) -> None:
    page = words(client_of(researcher).get(ADDRESS))
    assert "No model rates this project yet." in page
    assert "Rate them" not in page


# --- The answer ---


def test_places_percentiles_shift_and_what_was_read(
    version: ModelVersion, say: Say, researcher: User, client_of: Callable[[User], Client]
) -> None:
    say(
        [
            row(4.0, 0.9, unknown=3, truncated=True),
            row(7.0, -0.5, truncated=True, cut=True),
            row(4.0),
        ]
    )
    page = client_of(researcher).post(ADDRESS, texts(version, "**One** text", "Two", "", "Four"))
    result = page.context["result"]
    assert [(each.number, each.place, each.tied) for each in result.responses] == [
        (2, 1, False),
        (1, 2, True),
        (4, 2, True),
    ]
    said = words(page)
    assert "Best of 3: Response 2" in said
    assert "2nd, tied" in said
    assert "One text" in said
    assert [round(each.percentile) for each in result.in_order_of_boxes] == [67, 67, 67]
    assert "+0.90 raises it" in said
    assert "−0.50 lowers it" in said
    assert "0.00 hardly moves it" in said
    assert "15.0 % unknown to the model" in said
    assert "the prompt was cut" in said
    assert "the response was cut" in said
    table = result.in_order_of_boxes
    assert table[0].against[0] is None
    assert table[0].against[1] + table[1].against[0] == pytest.approx(1)
    assert table[0].against[2] == pytest.approx(0.5)
    assert page.content.decode().count('<figure class="chart strip">') == 3
    assert "Which city?" not in page.context["trial"].beginnings


def test_the_pick_follows_what_it_goes_by(
    version: ModelVersion, say: Say, researcher: User, client_of: Callable[[User], Client]
) -> None:
    """A bold response has the higher mean, a sure one the higher low quantile."""
    bold = [0.2, 0, 0, 0, 0, 0, 0, 0, 0.8]
    sure = [0, 0, 0, 0, 0, 0.1, 0.9, 0, 0]
    rows = [
        row(5.0, p=p, score=mean, expected=mean, claimed=mean) for p, mean in ((bold, 7.4), (sure, 6.9))
    ]  # fmt: skip
    say(rows)
    client = client_of(researcher)
    page = client.post(ADDRESS, texts(version, "Bold", "Sure"))
    assert "Best of 2: Response 1 by" in words(page)
    token = token_in(page)
    low = client.get(f"{ADDRESS}{token}/?by=low", headers=HTMX)
    assert "Best of 2: Response 2 by" in words(low)
    assert '<option value="low" selected>' in low.content.decode()
    say([rows[0], rows[0]])
    assert "Response 1 = Response 2 (equal)" in words(client.post(ADDRESS, texts(version, "x", "x")))


def test_a_scalar_model_is_picked_by_score_alone(
    project: Project,
    version: ModelVersion,
    make_version: Callable[..., ModelVersion],
    say: Say,
    researcher: User,
    client_of: Callable[[User], Client],
) -> None:
    responses = list(project.responses.order_by("pk"))
    scalar = on_disk(make_version(project, dict(zip(responses, [-1.0, 0.0, 1.0], strict=True)), method="bt"))
    say([row(0.5, 1.0, scalar=True), row(-0.5, scalar=True)])
    client = client_of(researcher)
    page = client.post(ADDRESS, texts(scalar, "x", "y"))
    said = words(page)
    assert "Best of 2: Response 1 by score." in said
    assert "no quantile to go by" in said
    assert "(percentile 67 → 100)" in said
    assert "+1.00 raises it" in said
    assert page.content.decode().count('<figure class="chart histogram">') == 2
    again = client.get(f"{ADDRESS}{token_in(page)}/?by=low")
    assert again.context["result"].by == "mean"
    assert re.findall(r'<option value="([^"]+)"', again.content.decode())[0] == scalar.address


def test_eight_responses_take_as_many_queries_as_one(
    version: ModelVersion,
    say: Say,
    researcher: User,
    client_of: Callable[[User], Client],
    django_assert_max_num_queries: Any,
) -> None:
    client = client_of(researcher)
    for number in (1, 8):
        say([row(5.0)] * number)
        with django_assert_max_num_queries(8) as queries:
            client.post(ADDRESS, texts(version, *["x"] * number))
        if number == 1:
            few = len(queries)
    assert len(queries) == few


def test_the_quantile_of_a_distribution() -> None:
    even = [1 / 9] * 9
    assert rating_quantile(even, 0.5) == pytest.approx(5)
    assert rating_quantile(even, 0.1) == pytest.approx(0.5 + 0.9)
    assert rating_quantile([0, 0, 0, 0, 0, 1, 0, 0, 0], 0.1) == pytest.approx(5.6)
    assert rating_quantile([0.1, 0, 0, 0, 0, 0, 0, 0, 0.9], 0.1) == pytest.approx(1.5)
    assert rating_quantile([2, 0, 0, 0, 0, 0, 0, 0, 2], 1) == pytest.approx(9.5)
    with pytest.raises(ValueError):
        rating_quantile([0.0] * 9, 0.1)
