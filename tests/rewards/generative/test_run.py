"""A judge's run from its folder to its votes, and what can be done with what it leaves."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.rewards.conftest import Rows
from tests.rewards.generative.openai_double import Double
from tests.rewards.generative.tiny import task
from workers.results import read_artifact
from workers.rewards import benchmark, evaluate, export, measure, score
from workers.rewards.artifacts.save import ArtifactError, load_model
from workers.rewards.config import Refused
from workers.rewards.data.snapshot import read_snapshot
from workers.rewards.generative.judging import PROBE
from workers.rewards.generative.run import generate
from workers.rewards.generative.saved import load_judge
from workers.rewards.training.progress import Stop, Stopped

SAMPLES = 4
TABLES = ("trajectories", "critiques", "joint", "predictions")
Make = Callable[..., Path]


@pytest.fixture
def double(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Double]:
    with Double() as served:
        prices = {"input_price": 1.0, "output_price": 2.0}
        monkeypatch.setenv("CALIPER_ENDPOINTS", str(served.toml(tmp_path / "endpoints.toml", **prices)))
        yield served


def judge_run(make_run: Make, name: str = "run", **given: Any) -> Path:
    given = {"tuning": "frozen", "samples": SAMPLES, "max_new_tokens": 256, "epochs": None, **given}
    return make_run(given.pop("base_model", "endpoint:local"), "judge", name, token_budget=None, **given)


class After(Stop):
    """Wants the run to end once it was asked so often."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.left = looks

    @property
    def wanted(self) -> bool:
        self.left -= 1
        return self.left < 0


def table(run: Path, name: str) -> Rows:
    rows: Rows = pq.read_table(run / f"{name}.parquet").to_pylist()
    return rows


def test_a_judge_votes_through_an_endpoint(double: Double, make_run: Make) -> None:
    run = judge_run(make_run)
    metrics = generate(run, Stop())

    # Each of the 12 prompts' three responses stands once a sample, and its votes are its distribution
    said = table(run, "trajectories")
    assert [len(row["responses"]) for row in said] == [3] * 12 * SAMPLES
    votes: dict[str, list[int]] = {}
    for row in said:
        for response, rating in zip(row["responses"], row["scores"], strict=True):
            votes.setdefault(response, []).append(rating)
    for row in table(run, "predictions"):
        mine = votes[row["response_id"]]
        expected = [(mine.count(s) + 1 / 9) / (SAMPLES + 1) for s in range(1, 10)]
        assert row["p"] == pytest.approx(expected)
        assert row["split"] == "held_out"  # a judge has seen no label

    # A pair's outcome is counted within the texts, and people's labels are all measured on
    good = next(
        row for row in table(run, "joint") if {row["response_a"], row["response_b"]} == {"0-good", "0-bad"}
    )
    assert (good["response_a"], good["wins"], good["losses"]) == (
        "0-bad",
        0,
        SAMPLES,
    )  # the double likes length
    held_out = metrics["held_out"]
    assert held_out["pairs"]["accuracy"]["n"] == 72
    assert held_out["pairs"]["accuracy"]["value"] > 0.7
    assert held_out["levels"]["n"] == 36
    assert held_out["calibration"]["method"] is None

    # A critique is there for each vote, one of them the median
    texts = table(run, "critiques")
    assert len(texts) == 36 * SAMPLES
    assert sum(row["median"] for row in texts) == 36
    assert all("characters" in row["critique"] and "Length" in row["principles"] for row in texts)

    told = metrics["generative"]
    assert told["curve"][-1]["samples"] == SAMPLES
    assert told["curve"][-1]["votes"]["value"] == held_out["pairs"]["accuracy"]["value"]
    assert (told["unparsed_share"], told["unread"]) == (0.0, {"pairs": 0, "n": 36})
    assert told["cost"] == pytest.approx((told["tokens_in"] + 2 * told["tokens_out"]) / 1e6)
    assert told["requests"] == len(double.seen)
    assert len(double.seen) <= len(said) * 1.5  # the robustness suite's share
    phases = [json.loads(line)["phase"] for line in (run / "progress.jsonl").read_text().splitlines()]
    assert list(dict.fromkeys(phases)) == ["loading", "scoring", "evaluating", "saving"]
    assert not (run / "checkpoint").exists()
    for path in run.rglob("*"):  # neither key nor address is written anywhere
        assert not path.is_file() or (
            double.key.encode() not in path.read_bytes() and double.url.encode() not in path.read_bytes()
        )


def test_what_a_judge_leaves_is_scored_measured_and_packed(
    double: Double, make_run: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = judge_run(make_run, samples=2)
    metrics = generate(run, Stop())
    model = run / "model"
    artifact = read_artifact(model, method="judge")
    assert (artifact["kind"], artifact["tie"], artifact["temperature"]) == ("ordinal", None, 1.0)
    with pytest.raises(ArtifactError, match="writes critiques and votes"):
        load_model(model)

    ask = tmp_path / "ask.jsonl"
    messages = [{"role": "user", "content": "how do i keep plant 1 alive"}]
    texts = ("water it weekly and give it light 1", "no idea 1")
    ask.write_text("\n".join(json.dumps({"messages": messages, "text": text}) for text in texts))
    assert score.main([str(model), str(ask)]) == 0
    long, short = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert long["score"] > short["score"]
    assert sum(long["p"]) == pytest.approx(1)

    assert evaluate.main([str(model), str(run / "snapshot")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["metrics"]["pairs"]["accuracy"] == metrics["held_out"]["pairs"]["accuracy"]

    folder = tmp_path / "measure"
    folder.mkdir()
    (folder / "ask.json").write_text(json.dumps({"unit": "prompt", "held_out": ["p0", "p1"], "learnt": []}))
    assert measure.main([str(model), str(run / "snapshot"), str(folder)]) == 0
    again = json.loads((folder / "metrics.json").read_text())
    assert (again["responses"], again["held_out"]["pairs"]["n"]) == (6, 6)

    pairs = tmp_path / "pairs.jsonl"
    chosen, rejected = ([*messages, {"role": "assistant", "content": text}] for text in texts)
    pairs.write_text(json.dumps({"chosen": chosen, "rejected": rejected}))
    out = tmp_path / "result.json"
    assert benchmark.main([str(model), str(pairs), "--json", str(out)]) == 0
    (result,) = json.loads(out.read_text())["benchmarks"]
    assert result["lines"][0]["value"] == 1.0

    assert export.main([str(model), str(tmp_path / "out")]) == 2
    assert "a judge has no weights of its own" in capsys.readouterr().err
    assert export.main([str(model), str(tmp_path / "pack"), "--format", "caliper"]) == 0
    card = (tmp_path / "pack" / "README.md").read_text()
    assert "Asked: judge-1" in card
    assert "It has learnt nothing of this project's labels" in card


def test_a_killed_judge_goes_on_and_asks_nothing_twice(double: Double, make_run: Make) -> None:
    straight = judge_run(make_run, "straight")
    generate(straight, Stop())
    once = len(double.seen)
    double.seen.clear()
    double.delay = 0.02
    run = judge_run(make_run, "killed")
    command = [sys.executable, "-m", "workers.rewards.train", str(run)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as child:
        kept = run / "checkpoint" / "score" / "0.jsonl"
        deadline = time.monotonic() + 300
        while not (kept.exists() and len(kept.read_bytes().splitlines()) > 5):
            assert time.monotonic() < deadline
            assert child.poll() is None, child.stderr and child.stderr.read().decode()
            time.sleep(0.01)
        os.kill(child.pid, signal.SIGKILL)
    generate(run, Stop())
    assert once <= len(double.seen) <= once + 8  # those on their way were lost
    for name in TABLES:
        assert table(run, name) == table(straight, name)


def test_a_judge_that_never_keeps_to_the_form_is_refused_early(double: Double, make_run: Make) -> None:
    double.always = "cut"
    with pytest.raises(
        Refused, match=f"none of the first {PROBE} answers could be read .it was cut off before"
    ):
        generate(judge_run(make_run, samples=8), Stop())
    assert len(double.seen) == PROBE


def test_a_stop_comes_within_the_scoring(double: Double, make_run: Make) -> None:
    double.delay = 0.05
    with pytest.raises(Stopped):
        generate(judge_run(make_run), After(10))
    assert len(double.seen) < 30


@pytest.mark.slow
@pytest.mark.xdist_group("form model")  # it is made once a process
def test_a_grm_leaves_weights_that_vote_as_its_run_did(form_lm: Path, make_run: Make, tmp_path: Path) -> None:
    responses, judgements = task(12)
    settings: dict[str, Any] = {
        "responses": responses,
        "judgements": judgements,
        "levels": [],
        "token_budget": None,
        "epochs": 1,
    }
    settings |= {"tuning": "lora", "stages": "rft", "samples": 2, "max_new_tokens": 80}
    run = make_run(form_lm, "grm", **settings)
    metrics = generate(run, Stop())

    # stopped again and again, wherever it is, and started again: the same
    stopped, goes = make_run(form_lm, "grm", "stopped", **settings), 0
    while not (stopped / "metrics.json").exists():
        goes += 1
        with contextlib.suppress(Stopped):
            generate(stopped, After(16 * goes))
    assert goes > 2
    for name in TABLES:
        assert table(stopped, name) == table(run, name)

    told = metrics["generative"]["stages"]
    learnt = [row for row in table(run, "trajectories") if row["stage"] == "rft"]
    held_out = set(metrics["split"]["held_out"])
    assert told["rft"]["prompts"] == 12 - len(held_out)
    assert {row["prompt_id"] for row in learnt}.isdisjoint(held_out)  # nothing held out is learnt
    assert [row["outcome"] for row in learnt].count("kept") == told["rft"]["kept"]
    assert metrics["training"]["judgements"] == 12 - len(held_out)
    assert {row["split"] for row in table(run, "predictions")} == {"train", "held_out"}
    artifact = read_artifact(run / "model", method="grm")
    assert artifact["base"]["name"] == "a local folder"

    # the saved adapters over their base write the same texts
    judge, _ = load_judge(run / "model")
    _, votes = judge.voted(read_snapshot(run / "snapshot"))
    mine = {row["response_id"]: row["p"] for row in votes.predictions(responses)}
    assert mine == {row["response_id"]: row["p"] for row in table(run, "predictions")}

    # and so does what is exported: its card's code builds the same prompt and reads the scores
    out = tmp_path / "out"
    assert export.main([str(run / "model"), str(out)]) == 0
    card = (out / "README.md").read_text()
    assert "Stage rft: prompts" in card
    code = card.partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {}
    exec(code.replace('folder = "."', f"folder = {str(out)!r}"), names)
    rows = [{"messages": names["messages"], "text": text} for text in names["responses"]]
    assert tuple(names["prompt"](names["messages"], names["responses"])) == judge.template.ids(rows)
    assert names["scores"]("Scores: \\boxed{7, 3}", 2) == [7, 3]
    assert names["scores"]("Scores: \\boxed{7, 13}", 2) is None
