"""Reports over the API: a whole one, one sent twice, broken ones, and what is read back."""

import json
import uuid
from collections.abc import Callable
from typing import Any

from tests.api.conftest import Api, said
from tests.api.conftest import api as api
from tests.rollouts.story import pair, report, tell
from webapp.accounts.models import User
from webapp.corpus.models import Import, Project
from webapp.rollouts.models import RolloutPair, RolloutWindow
from webapp.training.models import ModelVersion
from workers.rewards.serving import sampling


def test_a_server_reports_and_reads_back(
    asking: Project, version: ModelVersion, researcher: User, api: Callable[..., Api]
) -> None:
    server, path = api(researcher, "score"), f"/projects/{asking.slug}/rollouts"
    # What the reward server's own window makes of rollouts is what is taken here.
    settings = {"sample": 6, "reference": None}
    told = {"digest": version.digest, "kind": "ordinal", "temperature": 1.0, "tie": None}
    window = sampling.Window(settings, told, server="gpu-1", seed=1)
    for prompt in range(3):
        for answer in range(3):
            p = [1 / 9] * 9
            row = {"score": 5.0 + answer, "expected": 5.0, "spread": 2.5, "p": p}
            window.add(
                [{"role": "user", "content": f"Which {prompt}?"}], f"Answer {answer} to {prompt}.", row
            )
    for broken in (
        "a\x00b",
        "\ud83d",
    ):  # counted, and not sent: one of them would have the whole report refused
        window.add([{"role": "user", "content": "Which 0?"}], broken, {"score": 5.0})
    sent, key = window.close(), {"Idempotency-Key": str(uuid.uuid4())}
    answer = server.post(path, sent, headers=key)
    assert said(answer) == {"taken": 6, "duplicates": 0, "over_cap": 0, "left_out": []}
    again = server.post(path, sent, headers=key)
    assert again["Idempotency-Replayed"] == "true"
    assert said(again) == said(answer)
    assert said(server.post(path, sent))["taken"] == 0
    assert RolloutWindow.objects.get().reported_by == researcher
    reader = api(researcher, "read")
    [shown] = said(reader.get(path))["items"]
    assert (shown["version"], shown["seen"], shown["taken"]) == (version.address, 11, 6)
    tell(asking, [version], windows=1)
    pairs = said(reader.get(f"{path}/pairs?why=random&limit=50"))["items"]
    assert len(pairs) == RolloutPair.objects.drawn().count()
    judged = [one for one in pairs if one["judgements"]]
    assert len(judged) == 10
    asked = RolloutPair.objects.get(pk=judged[-1]["id"])
    votes = list(asked.pair.judgements.values_list("verdict", flat=True))
    assert judged[-1]["share"] == sum({"a": 1, "tie": 0.5, "b": 0}[vote] for vote in votes) / 3


def test_a_broken_report_names_the_field(
    asking: Project, version: ModelVersion, researcher: User, api: Callable[..., Api]
) -> None:
    server, path = api(researcher), f"/projects/{asking.slug}/rollouts"
    whole = report(version, [pair("x")])
    broken: list[tuple[Any, int, str]] = [
        ({**whole, "version": "0"}, 422, "version"),
        ({**whole, "seen": 0}, 422, "seen"),
        ({**whole, "more": 1}, 422, "more"),
        ({**whole, "pairs": [{**pair("x"), "preferred": 2}]}, 422, "pairs[0].preferred"),
        ({**whole, "pairs": [{**pair("x"), "a": {"text": "\x00", "score": 1}}]}, 422, "pairs.0.a.text"),
        ([], 422, "body"),
        (b'{"server": "\xff"}', 400, ""),
        (json.dumps(whole).replace("5.0", "NaN").encode(), 400, ""),
    ]
    for body, status, field in broken:
        errors = said(server.post(path, body), status)["errors"]
        assert [each["field"] for each in errors][:1] == ([field] if field else []), body
    assert not RolloutWindow.objects.exists()
    Import.objects.create(project=asking, file_name="x", folder="x", phase=Import.IN_BATCHES)
    assert server.post(path, whole)["Retry-After"] == "30"
    asking.rollout_settings.delete()
    assert "does not ask people back" in said(server.post(path, whole), 409)["detail"]
