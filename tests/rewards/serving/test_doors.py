"""What a reward server answers: the numbers of `score`, in every trainer's form, and words for everything else."""

import base64
import json
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from workers.rewards.artifacts.save import load_model
from workers.rewards.models.predict import score_responses
from workers.rewards.serving import doors
from workers.rewards.serving.holder import Held, Row

from .conftest import Server, serving

pytestmark = pytest.mark.one_database


def expected(folder: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What `score` says."""
    model, template, _ = load_model(folder)
    given = [{"response_id": str(n), "tools": [], **row} for n, row in enumerate(rows)]
    return score_responses(model, template, given)


def test_scores_are_those_of_score_in_every_form(
    reward_server: Server, model_folder: Path, held: Held, rows: Any
) -> None:
    texts = [{"messages": row["messages"], "text": row["text"]} for row in rows[0]]
    scored = expected(model_folder, texts)
    answer = reward_server.post("/v1/score", {"items": texts}).json()
    assert answer["version"] == {"name": held.name, "digest": held.digest}
    for got, row in zip(answer["scores"], scored, strict=True):
        assert set(got) == {"score", "expected", "spread", "p", "percentile", "truncated"}
        for key in ("score", "expected", "spread", "p"):
            assert got[key] == pytest.approx(row[key], abs=1e-5), key
    reward = scored[0]["score"]
    (said,) = texts[0]["messages"]
    prompt, text = said["content"], texts[0]["text"]
    forms: list[tuple[str, Any]] = [
        ("/v1/score", {"items": [{"prompt": prompt, "text": text}]}),
        ("/v1/score", {"items": [{"messages": [said, {"role": "assistant", "content": text}]}]}),
        ("/v1/reward", {"prompt": prompt, "response": text, "label": {"any": "thing"}}),
        ("/v1/reward", {"prompt": [said], "response": text}),
        ("/get_reward", {"query": [prompt + text], "prompts": [prompt], "labels": [None]}),
    ]
    for door, body in forms:
        response = reward_server.post(door, body)
        found = response.json()
        if door == "/v1/score":
            found = found["scores"][0]["score"]
        elif door == "/get_reward":
            (found,) = found["rewards"]
        assert found == pytest.approx(reward, abs=1e-5), (door, body)
        assert response.headers["caliper-version"] == held.digest
    empty = reward_server.post("/get_reward", {"query": [], "prompts": [], "labels": []}).json()
    assert empty == {"rewards": [], "scores": [], "extra_logs": {}}
    assert json.loads(reward_server.post("/v1/score", {"items": []}).text)["scores"] == []


def test_a_percentile_is_among_the_projects_responses(make_model: Callable[..., Path]) -> None:
    folder = make_model()
    (row,) = Held.load(folder).score(Held.load(folder).encode([{"messages": [], "tools": [], "text": "and"}]))
    assert row["percentile"] is None
    scores = [row["score"] - 1, row["score"] - 0.5, row["score"] + 1, row["score"] + 2]
    pq.write_table(pa.table({"score": scores}), folder.parent / "predictions.parquet")
    held = Held.load(folder)
    assert held.score(held.encode([{"messages": [], "tools": [], "text": "and"}]))[0]["percentile"] == 50.0


def test_many_at_once_each_get_their_own_scores(
    reward_server: Server, model_folder: Path, rows: Any, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held, "batch_tokens", 60)  # batches of a few texts, so that requests are taken apart
    texts = [{"messages": row["messages"], "text": row["text"]} for row in rows[0]]
    scored = [row["score"] for row in expected(model_folder, texts)]

    def ask(number: int) -> list[float]:
        some = [texts[(number + place) % len(texts)] for place in range(1 + number % 5)]
        answer = reward_server.post("/v1/score", {"items": some}).json()
        return [row["score"] for row in answer["scores"]]

    with ThreadPoolExecutor(8) as pool:
        for number, found in enumerate(pool.map(ask, range(40))):
            wanted = [scored[(number + place) % len(texts)] for place in range(1 + number % 5)]
            assert found == pytest.approx(wanted, abs=1e-5)
    counted = httpx.get(f"{reward_server.url}/metrics").text
    assert 'caliper_requests_total{door="/v1/score",status="200"}' in counted
    batches = float(counted.split("caliper_batch_texts_count ")[1].split("\n")[0])
    assert "caliper_queue_tokens 0.0" in counted
    assert batches >= 1


# --- What can't be taken ---

DEEP = '{"items":' + "[" * 100_000 + "]" * 100_000 + "}"
HOSTILE: list[tuple[str, bytes | Any, str]] = [
    ("/v1/score", b"", "body"),
    ("/v1/score", b"{", "body"),
    ("/v1/score", b"\xff\xfe", "body"),
    ("/v1/score", b"[]", "body"),
    ("/v1/score", DEEP.encode(), "body"),
    ("/v1/score", b'{"items": [], "items": []}', "body"),
    ("/v1/score", b'{"items": ' + b"9" * 10_000 + b"}", "body"),
    ("/v1/score", {}, "items"),
    ("/v1/score", {"items": 3}, "items"),
    ("/v1/score", {"items": [{}] * 5000}, "items"),
    ("/v1/score", {"items": [], "model": "x"}, "model"),
    ("/v1/score", {"items": [], "rollouts": 1}, "rollouts"),
    ("/v1/score", {"items": ["x"]}, "items[0]"),
    ("/v1/score", {"items": [{"text": "a"}, {"text": None}]}, "items[1].text"),
    ("/v1/score", {"items": [{"text": "a", "response": "b"}]}, "items[0].response"),
    ("/v1/score", {"items": [{"text": "a", "prompt": "b", "messages": []}]}, "items[0].prompt"),
    ("/v1/score", {"items": [{"text": "a", "prompt": {"role": 1}}]}, "items[0].prompt"),
    ("/v1/score", {"items": [{"text": "a", "messages": [{"role": 1}]}]}, "items[0].messages"),
    (
        "/v1/score",
        {"items": [{"text": "a", "messages": [{"role": "user", "content": ["x"]}]}]},
        "items[0].messages",
    ),
    ("/v1/score", {"items": [{"text": "a", "tools": {}}]}, "items[0].tools"),
    ("/v1/score", b'{"items": [{"text": "\\ud800"}]}', "items[0].text"),
    ("/v1/score", b'{"items": [{"text": "a", "tools": [{"\\ud800": 1}]}]}', "items[0].tools"),
    ("/get_reward", {"prompts": []}, "query"),
    ("/get_reward", {"query": ["a"], "prompts": []}, "prompts"),
    ("/get_reward", {"query": [1]}, "query[0]"),
    ("/get_reward", {"query": ["a"], "prompts": [1]}, "prompts[0]"),
    ("/v1/reward", {"prompt": "a"}, "response"),
    ("/v1/reward", {"prompt": 7, "response": "a"}, "prompt"),
]


@pytest.mark.parametrize("case", range(len(HOSTILE)))
def test_what_cant_be_read_is_refused_by_its_field(reward_server: Server, case: int) -> None:
    door, body, field = HOSTILE[case]
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = httpx.post(f"{reward_server.url}{door}", content=data, timeout=30)
    assert response.status_code == 422, response.text[:300]
    assert response.headers["content-type"] == "application/problem+json"
    (error,) = response.json()["errors"]
    assert error["field"] == field
    assert error["message"]
    assert error["remedy"]


def test_odd_texts_are_scored(reward_server: Server) -> None:
    texts = ["", "\0", "\u2028", "#" * 500, "a " * 5000, "\U0010ffff", "[SEP] [CLS]"]
    response = reward_server.post("/v1/score", {"items": [{"text": text} for text in texts]})
    assert response.status_code == 200
    assert len(response.json()["scores"]) == len(texts)
    assert response.json()["scores"][4]["truncated"] is True


def test_too_much_and_too_slow(reward_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors, "MOST_BODY", 1000)
    monkeypatch.setattr(doors, "BODY_SECONDS", 0.2)
    long = reward_server.post("/v1/score", {"items": [{"text": "a" * 2000}]})
    assert long.status_code == 413

    def chunks() -> Any:  # no content-length says it beforehand
        for _ in range(20):
            yield b"x" * 100

    assert httpx.post(f"{reward_server.url}/v1/score", content=chunks()).status_code == 413
    host, port = reward_server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as slow:
        slow.sendall(b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
        assert b" 408 " in slow.recv(1000).split(b"\r\n")[0]
    for path, method, status in (("/", "GET", 404), ("/v1/score", "GET", 405)):
        response = httpx.request(method, f"{reward_server.url}{path}")
        assert (response.status_code, response.json()["status"]) == (status, status)


def test_a_token_is_asked_for(reward_server: Server, held: Held) -> None:
    # without tokens whoever is on this machine may ask, but no page in a browser on it
    page = reward_server.post("/v1/reward", {"response": "b"}, headers={"Origin": "https://elsewhere.org"})
    assert (page.status_code, page.json()["title"]) == (403, "Browsers are not answered")
    with serving(held, tokens=["first-token", "second-token"]) as server:
        body = {"prompt": "a", "response": "b"}
        assert server.post("/v1/reward", body).status_code == 401
        for shown in ("first-token", "second-token"):
            headers = {"Authorization": f"Bearer {shown}"}
            assert server.post("/v1/reward", body, headers=headers).status_code == 200
            assert server.post("/v1/reward", body, auth=("any", shown)).status_code == 200
        for wrong in (
            "Bearer",
            "Bearer first",
            "Basic !",
            "first-token",
            "Basic " + base64.b64encode(b"first-token").decode(),
        ):
            refused = server.post("/v1/reward", body, headers={"Authorization": wrong})
            assert refused.status_code == 401, wrong
            assert "CALIPER_SERVE_TOKENS" in refused.json()["detail"]
        assert httpx.get(f"{server.url}/metrics").status_code == 401
        assert httpx.get(f"{server.url}/healthz").json()["ok"] is True


# --- The queue ---


class Gate:
    """Holds a version's scoring back until it is opened, and counts the texts that were scored."""

    def __init__(self, folder: Path) -> None:
        self.held = Held.load(folder)
        self.opened, self.reached, self.texts = threading.Event(), threading.Event(), 0
        self._score = self.held.score
        self.held.score = self._gated  # type: ignore[method-assign]

    def _gated(self, encoded: Sequence[Any]) -> list[Row]:
        self.reached.set()
        assert self.opened.wait(20)
        self.texts += len(encoded)
        return self._score(encoded)


def test_beyond_the_bound_clients_are_told_when_to_return(model_folder: Path) -> None:
    gate = Gate(model_folder)
    body = {"items": [{"text": "water it weekly and give it light"}] * 3}  # 27 tokens
    with serving(gate.held, bound=60) as server, ThreadPoolExecutor(4) as pool:
        taken = [pool.submit(server.post, "/v1/score", body)]
        assert gate.reached.wait(10)
        taken.append(pool.submit(server.post, "/v1/score", body))
        while server.batcher._waiting < 54:
            time.sleep(0.01)
        busy = server.post("/v1/score", body)
        assert busy.status_code == 429
        assert 1 <= int(busy.headers["retry-after"]) <= 60
        never = server.post("/v1/score", {"items": body["items"] * 3})
        assert never.status_code == 413
        assert "send them in 2 requests" in never.json()["detail"]
        gate.opened.set()
        assert [one.result().status_code for one in taken] == [200, 200]
        assert server.post("/v1/score", body).status_code == 200


def test_what_a_client_no_longer_waits_for_is_dropped(model_folder: Path) -> None:
    gate = Gate(model_folder)
    with serving(gate.held) as server, ThreadPoolExecutor(4) as pool:
        first = pool.submit(server.post, "/v1/score", {"items": [{"text": "water"}]})
        assert gate.reached.wait(10)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.url}/v1/score", json={"items": [{"text": "light"}] * 50}, timeout=0.3)
        time.sleep(0.2)  # the server hears that the connection is closed
        gate.opened.set()
        assert first.result().status_code == 200
        assert server.post("/v1/score", {"items": [{"text": "light"}]}).status_code == 200
        assert gate.texts == 2
        assert server.batcher._waiting == 0


def test_a_failure_costs_its_batch_alone(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held.load(model_folder)
    with serving(held) as server:
        with monkeypatch.context() as broken:
            broken.setattr(held, "score", lambda encoded: 1 / 0)
            failed = server.post("/v1/score", {"items": [{"text": "water"}]})
        assert (failed.status_code, failed.json()["title"]) == (500, "Scoring failed")
        assert server.post("/v1/score", {"items": [{"text": "water"}]}).status_code == 200


def test_without_a_model_it_says_so() -> None:
    with serving(None) as server:
        health = httpx.get(f"{server.url}/healthz")
        assert (health.status_code, health.json()["ok"]) == (503, False)
        response = server.post("/v1/score", {"items": [{"text": "water"}]})
        assert (response.status_code, response.headers["retry-after"]) == (503, "2")


def test_versions_are_swapped_under_load_and_no_answer_mixes_them(
    make_model: Callable[..., Path], rows: Any
) -> None:
    folders = [make_model(seed=1), make_model("scalar", seed=2)]
    versions = [Held.load(folder) for folder in folders]
    texts = [{"messages": row["messages"], "text": row["text"]} for row in rows[0]]
    right = {
        held.digest: [row["score"] for row in expected(folder, texts)]
        for held, folder in zip(versions, folders, strict=True)
    }
    ended = threading.Event()
    seen: set[str] = set()

    def load() -> int:
        asked = 0
        with httpx.Client(base_url=server.url, timeout=30) as client:
            while not ended.is_set():
                response = client.post("/v1/score", json={"items": texts})
                assert response.status_code == 200
                answer = response.json()
                found = [row["score"] for row in answer["scores"]]
                assert found == pytest.approx(right[answer["version"]["digest"]], abs=1e-5)
                seen.add(answer["version"]["digest"])
                asked += 1
        return asked

    with serving(versions[0]) as server, ThreadPoolExecutor(3) as pool:
        loads = [pool.submit(load) for _ in range(3)]
        for number in range(20):
            time.sleep(0.05)
            server.swap(versions[(number + 1) % 2])
        ended.set()
        assert sum(one.result() for one in loads) > 20
    assert seen == set(right)
