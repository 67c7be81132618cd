"""One turn of the closed loop with real parts: what a server scored is asked about, judged, learnt from and served."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.rewards.conftest import rows, tiny_encoder  # noqa: F401 - fixtures
from tests.workers.conftest import ROOT, Worker
from webapp.accounts.models import User
from webapp.api.tokens import token_make
from webapp.corpus.models import Pair, Project, Prompt
from webapp.labels.models import Judgement
from webapp.rollouts.models import RolloutSettings
from webapp.training.models import ModelVersion, TrainingRun

pytestmark = [pytest.mark.slow, pytest.mark.one_database, pytest.mark.django_db(transaction=True)]

GOOD, BAD, STAMMER = "water it weekly and give it light", "no idea", "water it and and and light"
ENOUGH = 8


@contextmanager
def reward_server(project: str, token: str) -> Iterator[str]:
    """The command itself, which follows the project; its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "workers.rewards.serve", "--project", project, "--port", "0"],
        cwd=ROOT,
        env=os.environ | {"CALIPER_TOKEN": token, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        [url] = re.findall(r"http://\S+", process.stdout.readline())
        yield url
    finally:
        process.terminate()
        process.wait(30)


def until(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, list(TrainingRun.objects.values_list("state", "error"))
        time.sleep(0.1)
    return found


def judged(api: str, token: str) -> int:
    """What a person says on the cards that they are given: nobody likes a stammer. How many they judged."""
    headers = {"Authorization": f"Bearer {token}"}
    found = httpx.post(f"{api}/cards/next", json={"count": 5}, headers=headers).raise_for_status().json()
    for card in found["cards"]:
        liked = {side: card[side]["text"].startswith(GOOD) for side in ("left", "right")}
        answer = {"verdict": max(liked, key=liked.__getitem__), "revision": card["revision"]}
        httpx.post(f"{api}/cards/{card['key']}", json=answer, headers=headers).raise_for_status()
    return len(found["cards"])


def test_a_judged_rollout_changes_the_reward(
    project: Project,
    make_prompt: Callable[..., Prompt],
    admin: User,
    annotator: User,
    worker: Worker,
    live_server: Any,
    tiny_encoder: Path,  # noqa: F811
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    settings.BASE_MODEL_DIRS = [tiny_encoder.parent]
    monkeypatch.setenv("CALIPER_BASE_MODEL_DIRS", str(tiny_encoder.parent))
    monkeypatch.setenv("CALIPER_CACHE_DIR", str(tmp_path / "cache"))
    for number in range(16):
        make_prompt(project, f"p{number}", [f"{GOOD} {number}", f"{BAD} {number}"])
    for pair in Pair.objects.of(project):
        Judgement.objects.create(
            pair=pair, annotator=annotator, verdict="a", left="a", client_key=f"k{pair.pk}"
        )
    Project.objects.filter(pk=project.pk).update(
        asks="pairs", overlap=1, methods=["bt"], base_model=f"folder:{tiny_encoder.name}", tuning="frozen",
        training_options={"crossfit": 0}, min_judgements=8, retrain_after_labels=ENOUGH,
    )  # fmt: skip
    RolloutSettings.objects.create(project=project, on=True, per_hour=50, sample=ENOUGH, window_seconds=1)
    worker("real")
    tokens = {
        scope: token_make(user=user, name="test", scopes=[scope], actor=admin)[1]
        for user, scope in ((admin, "score"), (annotator, "write"))
    }
    with reward_server(f"{live_server.url}/p/{project.slug}", tokens["score"]) as url:
        first = until(lambda: ModelVersion.objects.filter(is_serving=True).first())
        until(lambda: httpx.get(f"{url}/healthz").status_code == 200)
        items = [
            {"prompt": f"How do I keep plant {number} alive?", "text": f"{text} {number}"}
            for number in range(8)
            for text in (GOOD, STAMMER)
        ]

        def scored(**rollouts: bool) -> httpx.Response:
            return httpx.post(
                f"{url}/v1/score", json={"items": items, **rollouts}, timeout=30
            ).raise_for_status()

        before = scored(rollouts=True)
        assert before.headers["Caliper-Version"] == first.digest
        until(lambda: Pair.objects.filter(response_a__author="rollout").count() == ENOUGH)

        api = f"{live_server.url}/api/v1/projects/{project.slug}"
        until(lambda: not judged(api, tokens["write"]))
        asked = Judgement.objects.filter(pair__response_a__author="rollout")
        assert set(asked.values_list("policy", flat=True)) == {"rollouts-first"}
        second = until(lambda: ModelVersion.objects.filter(is_serving=True).exclude(pk=first.pk).first())
        assert second.run.trigger == TrainingRun.Trigger.LABELS
        assert second.run.labels_seen >= 16 + ENOUGH
        after = until(lambda: (now := scored()).headers["Caliper-Version"] == second.digest and now)

    def margin(answer: httpx.Response) -> float:
        """How far the plain texts lie above the stammered ones, in standard deviations of all."""
        scores = [row["score"] for row in answer.json()["scores"]]
        mean = sum(scores) / len(scores)
        sd = (sum((score - mean) ** 2 for score in scores) / len(scores)) ** 0.5
        return (sum(scores[::2]) - sum(scores[1::2])) / 8 / sd

    assert margin(after) > margin(before), "nobody likes a stammer, and now it is known"
