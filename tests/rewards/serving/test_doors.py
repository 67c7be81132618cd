"""What a reward server answers: the numbers of `score`, in every trainer's form, and words for everything else."""

import json
from pathlib import Path
from typing import Any

import pytest

from workers.rewards.artifacts.save import load_model
from workers.rewards.models.predict import score_responses
from workers.rewards.serving.holder import Held

from .conftest import Server

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
