"""What the pages say of a version, recomputed from what a researcher exports, on three real data sets.

Import, training and export are the product's own commands; the numbers are counted here once more, with nothing of
the product: votes on pairs (UKPConvArg1), ratings made into levels (mlqe_pe), one-word votes on jokes (pl_humor).
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from django.core.management import call_command
from django.test import Client

from benchmarks.datasets import Rows, load_mlqe, load_pl_humor
from tests.conftest import shared_data
from webapp.accounts.models import User
from webapp.corpus.models import Project
from webapp.ratings.models import Prediction
from webapp.training.models import ModelVersion

pytestmark = [pytest.mark.slow, pytest.mark.one_database, pytest.mark.django_db]

Exported = tuple[ModelVersion, User, list[dict[str, Any]], list[dict[str, Any]]]
LEVELS = ("bad", "normal", "good")


def some(rows: Rows, groups: int, responses: int) -> Rows:
    """The first responses of the first groups, with what was said of them."""
    kept: dict[str, list[str]] = {name: [] for name in rows.groups[:groups]}
    for row in rows.responses:
        if len(kept.get(row["group"], [None] * responses)) < responses:
            kept[row["group"]].append(row["response_id"])
    names = {name for group in kept.values() for name in group}
    return Rows(
        [row for row in rows.responses if row["response_id"] in names],
        [row for row in rows.judgements if {row["response_a"], row["response_b"]} <= names],
        [row for row in rows.levels if row["response_id"] in names],
    )


def caliper_jsonl(rows: Rows, path: Path) -> Path:
    lines: list[dict[str, Any]] = []
    asked = set()
    for row in rows.responses:
        if row["prompt_id"] not in asked:
            asked.add(row["prompt_id"])
            said = row.get("messages") or [{"role": "user", "content": row["prompt_id"]}]
            lines.append({"type": "prompt", "id": row["prompt_id"], "messages": said, "group": row["group"]})
        response = {"id": row["response_id"], "prompt": row["prompt_id"], "text": row["text"]}
        lines.append({"type": "response", **response})
    for number, row in enumerate(rows.judgements):
        sides = {"a": row["response_a"], "b": row["response_b"], "verdict": row["verdict"]}
        # pl_humor doesn't say who judged; each of its votes was another person's.
        who = row["annotator"] if row["annotator"] != "crowd" else f"crowd {number % 50}"
        lines.append({"type": "vote", **sides, "annotator": who})
    for row in rows.levels:
        level = {"response": row["response_id"], "level": row["level"], "annotator": row["annotator"]}
        lines.append({"type": "level", **level})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


CASES: dict[str, tuple[str, Callable[[], Rows]]] = {
    "mlqe": ("rgft", lambda: some(load_mlqe("ro-en", shared_data("mlqe_pe"), pairs_per_item=20), 12, 25)),
    "humor": ("bt", lambda: load_pl_humor(shared_data("pl_humor"), pairs=600)),
}


@pytest.fixture(params=CASES)
def exported(request: pytest.FixtureRequest, tmp_path: Path, make_user: Callable[..., User]) -> Exported:
    """A trained version, a researcher, and what was exported: its predictions, and all judgements."""
    method, load = CASES[request.param]
    project = Project.objects.create(slug="real", name="Real", methods=[method], split_salt="real")
    call_command(
        "import_data", str(caliper_jsonl(load(), tmp_path / "in.jsonl")), project="real", verbosity=0
    )
    call_command("train", project="real", method=method, tuning="frozen", inline=True)
    version = ModelVersion.objects.get()
    tables: list[list[dict[str, Any]]] = []
    for name in ("predictions", "judgements"):
        folder = tmp_path / name
        chosen = {"model_version": f"{method}-1"} if name == "predictions" else {}
        call_command("export_data", project="real", format=name, out=folder, aggregation="vote", **chosen)
        files = sorted(folder.rglob("*.parquet"))
        tables.append([row for file in files for row in pq.read_table(file).to_pylist()])
    return version, make_user("ruth", project, "researcher"), tables[0], tables[1]


def test_the_pages_numbers_come_out_of_the_export(exported: Exported, client: Client) -> None:
    version, researcher, predictions, judgements = exported
    row_of = {row["response_id"]: row for row in predictions}
    held = {name for name, row in row_of.items() if row["split"] == "held_out"}
    others = {row["group"] for row in predictions if row["split"] in ("train", "crossfit")}
    assert held
    assert others.isdisjoint({row_of[name]["group"] for name in held}), "groups are held out as a whole"
    assert "train" not in {row["split"] for row in predictions}, "cross-fitted: nothing is shown as learned"

    # Every rating distribution, from its nine numbers
    scores = np.array([row["score"] for row in predictions])
    for row in predictions:
        lower, equal = np.sum(scores < row["score"]), np.sum(scores == row["score"])
        assert (
            100 * lower / len(scores) - 0.01
            <= row["percentile"]
            <= 100 * (lower + equal) / len(scores) + 0.01
        )
        if row["p1"] is None:
            continue
        p = np.array([row[f"p{rating}"] for rating in range(1, 10)])
        mean = p @ np.arange(1, 10)
        assert p.sum() == pytest.approx(1, abs=1e-4)
        assert (row["expected"], row["score"]) == pytest.approx((mean, mean), abs=1e-3)
        assert row["spread"] == pytest.approx(np.sqrt(p @ (np.arange(1, 10) - mean) ** 2), abs=1e-2)

    # Pair accuracy over people's decisive judgements of held-out pairs, beside “the longer one wins”
    right, longer = [], []
    for said in judgements:
        sides = [said["response_a_id"], said["response_b_id"]]
        if said["verdict"] not in ("a", "b") or not held.issuperset(sides):
            continue
        winner, loser = sides if said["verdict"] == "a" else sides[::-1]
        for found, measure in ((right, "score"), (longer, "response")):
            one, two = (row_of[name][measure] for name in (winner, loser))
            gap = one - two if measure == "score" else len(one) - len(two)
            found.append(0.5 + 0.5 * np.sign(gap))
    told = version.metrics["held_out"]
    assert told["pairs"]["accuracy"]["n"] == len(right) > 30
    assert told["pairs"]["accuracy"]["value"] == pytest.approx(np.mean(right), abs=1e-9)
    assert told["pairs"]["length_baseline"]["value"] == pytest.approx(np.mean(longer), abs=1e-9)

    # Levels, label by label, from the mass that the version puts on each
    level_words = None
    if version.method == "rgft":
        hits, errors = [], []
        for name in held:
            p = np.array([row_of[name][f"p{rating}"] for rating in range(1, 10)])
            mass = p.reshape(3, 3).sum(1)  # ratings 1 to 3 are bad, 4 to 6 normal, 7 to 9 good
            for place, level in enumerate(LEVELS):
                for _ in range(row_of[name][level]):
                    hits.append(mass.argmax() == place)
                    below = np.array([place <= 0, place <= 1], float)
                    errors.append(np.sum((np.cumsum(mass)[:2] - below) ** 2) / 2)
        assert told["levels"]["n"] == len(hits) > 30
        assert told["levels"]["accuracy"] == pytest.approx(np.mean(hits), abs=1e-9)
        assert told["levels"]["rps"] == pytest.approx(np.mean(errors), abs=1e-3)
        level_words = f"{100 * np.mean(hits):.1f} %"

    # The pages say the same
    client.force_login(researcher)
    page = client.get(f"/p/real/runs/{version.run_id}/").content.decode()
    words = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page)).replace("\u202f", " ").replace("\xa0", " ")
    for share in (np.mean(right), np.mean(longer)):
        assert f"{100 * share:.1f} %" in words
    assert level_words is None or level_words in words
    best = max(predictions, key=lambda row: row["score"])
    shown = Prediction.objects.get(version=version, response__external_id=best["response_id"])
    assert client.get(f"/p/real/responses/{shown.response_id}/").status_code == 200
