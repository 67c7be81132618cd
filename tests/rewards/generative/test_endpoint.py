"""The client of endpoints against a real server that fails in every way in which they do."""

import dataclasses
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rewards.generative.openai_double import KEY, Double
from webapp.corpus import endpoints as web
from workers.rewards.config import Refused
from workers.rewards.generative import endpoint as client
from workers.rewards.generative import endpoints
from workers.rewards.generative.endpoint import BudgetSpent, EndpointRefused, EndpointSampler
from workers.rewards.generative.endpoints import Endpoint, endpoint_named
from workers.rewards.generative.judge import parse
from workers.rewards.generative.sampling import Chat, Failed, Sampled, Usage

PROMPT = "x" * 400  # a hundred tokens


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[Double]:
    monkeypatch.setattr(client, "BACKOFF_SECONDS", 0.01)
    monkeypatch.setattr(client, "STOP_SECONDS", 1.0)
    with Double() as server:
        yield server


def at(double: Double, **more: Any) -> Endpoint:
    return Endpoint(
        **{"name": "local", "url": double.url, "model": double.model, "key": KEY, "timeout": 5.0} | more
    )


def chats(count: int, prompt: str = PROMPT) -> list[Chat]:
    return [Chat(({"role": "user", "content": prompt},), None, seed) for seed in range(count)]


def sample(sampler: EndpointSampler, asked: list[Chat], told: dict[int, Any] | None = None) -> list[Any]:
    """The answers; `told` gets what progress is told."""
    report = ({} if told is None else told).__setitem__
    return sampler.sample(asked, temperature=0.5, max_new_tokens=100, progress=report)


def test_answers_come_in_order_and_many_at_once(double: Double) -> None:
    double.delay = 0.05
    sampler = EndpointSampler(at(double, concurrency=4))
    told: dict[int, Any] = {}
    answers = sample(sampler, chats(12), told)
    alone = [sample(sampler, [chat])[0].text for chat in chats(3)]
    assert [answer.text for answer in answers[:3]] == alone
    assert [told[place] for place in range(12)] == answers
    assert double.most_at_once == 4
    asked = double.seen[0]
    assert (asked["temperature"], asked["max_tokens"], asked["model"]) == (0.5, 100, "judge-1")
    assert {each["seed"] for each in double.seen} == set(range(12))
    usage = sampler.usage
    assert (usage.requests, usage.retries, usage.tokens_in, usage.cost) == (15, 0, 1500, None)
    assert usage.tokens_out == sum(answer.tokens_out for answer in answers) + sum(
        len(text) // 4 for text in alone
    )


@pytest.mark.parametrize(
    "fault",
    ["429", "500", "502", "close", "half", "html", "json", "deep", "none", "null", "list", "hang", "drip"],
)
def test_what_passes_is_asked_again(double: Double, fault: str) -> None:
    double.plan.extend([fault, fault])
    sampler = EndpointSampler(at(double, timeout=0.6 if fault in ("hang", "drip") else 5.0))
    (answer,) = sample(sampler, chats(1))
    assert isinstance(answer, Sampled)
    assert answer.finished
    assert (sampler.usage.requests, sampler.usage.retries) == (3, 2)
    if fault == "429":
        gaps = [later - earlier for earlier, later in zip(double.at, double.at[1:], strict=False)]
        assert min(gaps) >= 0.3, "not before Retry-After"


def test_all_keep_away_until_the_time_that_the_server_names(double: Double) -> None:
    double.plan.append("429")
    sample(EndpointSampler(at(double, concurrency=1)), chats(2))
    assert double.at[1] - double.at[0] >= 0.3


def test_a_rate_limit_is_waited_for_as_long_as_patience_lasts(
    double: Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    double.plan.extend(["429"] * 7)
    assert isinstance(sample(EndpointSampler(at(double)), chats(1))[0], Sampled), "more often than a fault"
    monkeypatch.setattr(client, "PATIENCE_SECONDS", 0.5)
    double.always = "429"
    with pytest.raises(EndpointRefused, match="status 429: Rate limit reached"):
        sample(EndpointSampler(at(double, timeout=1.0)), chats(1))


@pytest.mark.parametrize(
    ("fault", "words", "requests"),
    [
        ("500", "status 500", 6),
        ("html", "no JSON but a page", 3),
        ("null", "no text", 3),
        ("400", "status 400: This model's maximum context length is 4096 tokens", 1),
        ("filtered", "content filter", 1),
        ("hang", "no answer within 0.4 s", 6),
    ],
)
def test_one_that_stays_away_is_failed_and_counted(
    double: Double, fault: str, words: str, requests: int
) -> None:
    double.plan.extend([fault] * requests)
    sampler = EndpointSampler(at(double, concurrency=1, timeout=0.4 if fault == "hang" else 5.0))
    first, second = sample(sampler, chats(2))
    assert isinstance(first, Failed)
    assert words in first.reason
    assert isinstance(second, Sampled)
    assert sampler.usage.requests == requests + 1


def test_where_most_fail_the_run_ends_with_the_commonest_reason(
    double: Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "ATTEMPTS", 2)
    double.always = "502"
    told: dict[int, Any] = {}
    with pytest.raises(EndpointRefused, match=r"failed on 3 of the last 3 texts, mostly \(3\): status 502"):
        sample(EndpointSampler(at(double)), chats(3), told)
    assert len(told) == 3
    few = sample(EndpointSampler(at(double), spent=Usage(requests=90, retries=2)), chats(3))
    assert all(isinstance(answer, Failed) for answer in few), "three of ninety"
    double.always = "400"
    with pytest.raises(EndpointRefused, match="failed on 32 of the last 32"):
        sample(EndpointSampler(at(double)), chats(500))
    assert len(double.seen) < 100, "not the whole project"


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("401", "status 401: Incorrect API key provided: (the key). The operator checks the key"),
        ("402", "Top up the account"),
        ("quota", "Top up the account"),
        ("404", "The operator checks url"),
        ("elsewhere", "sends us elsewhere"),
    ],
)
def test_what_does_not_pass_ends_the_run_at_once(double: Double, fault: str, words: str) -> None:
    double.plan.extend(["", "", fault])
    told: dict[int, Any] = {}
    with pytest.raises(EndpointRefused) as refusal:
        sample(EndpointSampler(at(double, concurrency=1)), chats(50), told)
    assert words in str(refusal.value)
    assert len(told) == 2
    assert len(double.seen) == 3


def test_a_wrong_key_and_no_server(double: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EndpointRefused, match="401"):
        sample(EndpointSampler(at(double, key="other")), chats(1))
    monkeypatch.setattr(client, "ATTEMPTS", 2)
    with pytest.raises(EndpointRefused, match=r"no connection \(ConnectionError\)"):
        sample(EndpointSampler(at(double, url="http://127.0.0.1:9/v1")), chats(1))


@pytest.mark.parametrize("fault", ["thinking", "reasoning", "no usage", "unseeded", "half a character"])
def test_other_servers_ways_are_understood(double: Double, fault: str) -> None:
    double.always = fault
    sampler = EndpointSampler(at(double, concurrency=1))
    answer = sample(sampler, chats(2))[1]
    assert isinstance(answer, Sampled)
    assert "<think>" not in answer.text
    assert answer.text.encode().startswith(b"### Principles")
    assert answer.tokens_in == 100
    assert answer.tokens_out > 10
    assert sampler.usage.requests == (4 if fault == "unseeded" else 2)


@pytest.mark.parametrize("fault", ["cut", "still thinking"])
def test_an_answer_that_was_cut_says_so(double: Double, fault: str) -> None:
    double.plan.append(fault)
    (answer,) = sample(EndpointSampler(at(double)), chats(1))
    assert isinstance(answer, Sampled)
    assert not answer.finished
    assert parse(answer.text, 1).scores is None


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("<think>a</think>b", "b"),
        (" <think>a", ""),
        ("a</think>\nb", "b"),
        ("a <think> b</think> c", "a <think> b</think> c"),
        ("plain", "plain"),
    ],
)
def test_thoughts_are_left_out(text: str, left: str) -> None:
    assert client._without_thoughts(text) == left


@pytest.mark.parametrize("limits", [{"token_limit": 700}, {"cost_limit": 700 * 2 / 1e6}])
def test_a_budget_is_never_exceeded_and_loses_nothing(double: Double, limits: dict[str, Any]) -> None:
    priced = at(double, concurrency=4, input_price=2.0, output_price=2.0, currency="EUR")
    told: dict[int, Any] = {}
    sampler = EndpointSampler(priced, **limits)
    with pytest.raises(BudgetSpent, match="Raise the limit, then press Resume") as spent:
        sample(sampler, chats(50), told)
    usage = sampler.usage
    used = usage.tokens_in + usage.tokens_out
    assert len(told) == usage.requests == len(double.seen) > 2
    assert 500 < used <= 700
    assert f"{used:,} tokens for" in str(spent.value)
    assert usage.cost == pytest.approx(used * 2 / 1e6)
    # a later go counts what the first used
    with pytest.raises(BudgetSpent):
        sample(EndpointSampler(priced, **limits, spent=usage), chats(1))
    more = EndpointSampler(priced, token_limit=used + 200, spent=usage)
    assert isinstance(sample(more, chats(1))[0], Sampled)
    assert more.usage.requests == usage.requests + 1 == len(double.seen)


def test_a_cost_limit_needs_prices(double: Double) -> None:
    with pytest.raises(Refused, match="has no prices"):
        EndpointSampler(at(double), cost_limit=1.0)


class Enough(Exception):
    pass


def test_a_stop_is_heeded_while_a_server_hangs(double: Double) -> None:
    double.plan.extend(["", "hang", "hang"])
    told: dict[int, Any] = {}
    began = time.monotonic()

    def check() -> None:
        if told:
            raise Enough

    with pytest.raises(Enough):
        sample(EndpointSampler(at(double, concurrency=3, timeout=60.0), check=check), chats(9), told)
    assert time.monotonic() - began < 4
    assert len(told) == 1


def test_what_is_on_its_way_at_a_stop_is_told(double: Double) -> None:
    double.delay = 0.3
    told: dict[int, Any] = {}

    def progress(index: int, answer: Any) -> None:
        told[index] = answer
        raise Enough

    with pytest.raises(Enough):
        EndpointSampler(at(double, concurrency=4)).sample(
            chats(9), temperature=0, max_new_tokens=9, progress=progress
        )
    assert len(told) == len(double.seen) == 4


def test_the_key_is_told_to_nobody(
    double: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(endpoints.VARIABLE, str(double.toml(tmp_path / "endpoints.toml", key_file="/no")))
    caplog.set_level(logging.DEBUG)
    texts = [str(_refusal("endpoint:local"))]
    monkeypatch.setenv(endpoints.VARIABLE, str(double.toml(tmp_path / "endpoints.toml")))
    found = endpoint_named("endpoint:local")
    assert found.key == KEY
    texts.append(repr(found))
    for fault in ("401", "400", "html", "close"):
        double.plan.extend([fault] * 6)
        try:
            texts.append(repr(sample(EndpointSampler(dataclasses.replace(found, concurrency=1)), chats(1))))
        except Refused as error:
            texts.append(f"{error!r} {error.__cause__!r} {error.__context__!r}")
        double.plan.clear()
    assert KEY not in " ".join([*texts, caplog.text])


# --- The operator's file ---

GOOD = 'url = "http://127.0.0.1:8000/v1"\nmodel = "m"\n'
MISTAKES = {
    "no TOML": "url = ",
    "outside": GOOD,
    "a name with a slash": f'["a/b"]\n{GOOD}',
    "no model": '[local]\nurl = "http://h/v1"',
    "unknown": f"[local]\n{GOOD}modle = 1",
    "a number": f'[local]\n{GOOD}timeout = "1"',
    "half": f"[local]\n{GOOD}concurrency = 1.5",
    "bounds": f"[local]\n{GOOD}concurrency = 0",
    "true": f"[local]\n{GOOD}timeout = true",
    "nan": f"[local]\n{GOOD}timeout = nan",
    "one price": f"[local]\n{GOOD}input_price = 1",
    "two keys": f'[local]\n{GOOD}key_env = "A"\nkey_file = "B"',
    "a file": '[local]\nurl = "file:///etc/passwd"\nmodel = "m"',
    "a password": '[local]\nurl = "http://me:secret@h/v1"\nmodel = "m"',
    "a query": '[local]\nurl = "http://h/v1?key=1"\nmodel = "m"',
    "a port": '[local]\nurl = "http://h:99999/v1"\nmodel = "m"',
    "not a text": "[local]\nurl = 1\nmodel = 2",
}


def _refusal(name: str) -> Refused:
    with pytest.raises(Refused) as refusal:
        endpoint_named(name)
    return refusal.value


@pytest.mark.parametrize("case", MISTAKES)
def test_both_halves_find_the_same_mistake(
    case: str, tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "endpoints.toml"
    path.write_text(MISTAKES[case])
    monkeypatch.setenv(endpoints.VARIABLE, str(path))
    settings.ENDPOINTS_FILE = path
    mistakes = web.endpoint_mistakes()
    assert mistakes
    assert web.endpoints() == []
    refusal = str(_refusal("endpoint:a/b" if "slash" in case else "endpoint:local"))
    assert "The operator" in refusal or "has no table" in refusal
    if "[local]" in mistakes[0]:
        assert mistakes[0] in refusal


def test_both_halves_read_the_same_file(
    tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "endpoints.toml"
    text = f'[b]\n{GOOD}key_env = "JUDGE_KEY"\ninput_price = 0.5\noutput_price = 2\n[a]\n{GOOD}[c]\nurl = 1\n'
    path.write_text(text)
    settings.ENDPOINTS_FILE = path
    assert [each.name for each in web.endpoints()] == ["endpoint:a", "endpoint:b"], "the sound ones"
    monkeypatch.setenv(endpoints.VARIABLE, str(path))
    assert "JUDGE_KEY, which is not set" in str(_refusal("endpoint:b"))
    monkeypatch.setenv("JUDGE_KEY", f" {KEY}\n")
    found, told = endpoint_named("endpoint:b"), web.endpoint_named("endpoint:b")
    assert found.key == KEY
    assert found.cost(1_000_000, 500_000) == told.cost(1_000_000, 500_000) == 1.5
    assert (found.model, found.currency, found.priced) == (told.model, told.currency, True)
    assert endpoint_named("endpoint:a").cost(1, 1) is None
    assert web.endpoint_environment("endpoint:b") == {endpoints.VARIABLE: str(path), "JUDGE_KEY": f" {KEY}\n"}
    assert web.endpoint_environment("endpoint:none") == web.endpoint_environment("starter") == {}
    monkeypatch.setenv("JUDGE_KEY", "a\nb")
    assert "a line's end" in str(_refusal("endpoint:b"))
    assert "no table [none]" in str(_refusal("endpoint:none"))
    monkeypatch.delenv(endpoints.VARIABLE)
    assert "names no file" in str(_refusal("endpoint:a"))
