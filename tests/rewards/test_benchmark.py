"""The command: files and a model in; a table, JSON and refusals out."""

import json
import re
from pathlib import Path

import pytest

from workers.rewards.artifacts.save import save_model
from workers.rewards.benchmark import main
from workers.rewards.data.benchmarks import read_benchmarks
from workers.rewards.models.load import load_backbone, load_tokenizer
from workers.rewards.models.reward_model import RewardModel
from workers.rewards.score import main as score
from workers.rewards.text.sections import Template

from .conftest import BAD, GOOD, NORMAL, Rows
from .data.test_benchmarks import lines


@pytest.fixture(scope="module")
def model(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmarked") / "model"
    tokenizer = load_tokenizer("tiny", str(tiny_encoder))
    template = Template(tokenizer, architecture="encoder", ordinal=True, max_length=32)
    backbone = load_backbone("tiny", str(tiny_encoder), "encoder")
    network = RewardModel(backbone, architecture="encoder", kind="ordinal")
    save_model(folder, network, template, method="oprm", partition=(3, 6), base_model="tiny")
    return folder


def test_scores_are_those_of_the_score_command(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Accuracy and curve follow from the scores that `score` gives the same texts; each distinct one is read once."""
    rows = [
        {
            "prompt": f"how do i keep plant {n} alive",
            "responses": [GOOD, NORMAL, BAD, BAD],
            "scores": [3, 2, 1, 1],
        }
        for n in range(4)
    ]
    path = lines(tmp_path / "garden.jsonl", *rows, {"prompt": "x"})
    out = tmp_path / "out.json"
    assert main([str(model), str(path), "--json", str(out)]) == 1
    said = capsys.readouterr()
    assert said.err == "refused: garden.jsonl line 5: responses must be a list of texts, not None\n"
    (result,) = json.loads(out.read_text())["benchmarks"]
    assert (result["format"], result["items"], result["responses"], result["refused"]) == (
        "best_of_n",
        4,
        16,
        1,
    )
    assert result["reading"] == {
        "responses": 12, "truncated": 0, "cut": 0, "unknown": 0, "compared": 20, "alike": 0,
    }  # fmt: skip

    texts = [
        {"text": text, "messages": [{"role": "user", "content": row["prompt"]}]}
        for row in rows
        for text in row["responses"]
    ]
    assert score([str(model), str(lines(tmp_path / "texts.jsonl", *texts))]) == 0
    scores = [json.loads(line)["score"] for line in capsys.readouterr().out.splitlines()]
    right = 0.0
    for n in range(4):
        good, normal, bad, _ = scores[4 * n : 4 * n + 4]
        right += ((good > normal) + 2 * (good > bad) + 2 * (normal > bad)) / 5
    (line,) = result["lines"]
    assert line["value"] == pytest.approx(right / 4)
    assert result["best_of_n"]["oracle"][-1] == 3
    assert result["best_of_n"]["model"][0] == pytest.approx(7 / 4)
    assert re.search(rf"overall +{line['value']:.3f} .* 4 ", said.out)
    assert "best of k, of 4 prompts with 4 responses" in said.out


def test_what_the_model_cannot_tell_apart_is_counted(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = " ".join([GOOD] * 20)
    path = lines(
        tmp_path / "pairs.jsonl",
        {"prompt": "the score", "chosen": "ÄÖ", "rejected": "ÜÉ"},
        {"prompt": "the score", "chosen": long, "rejected": BAD},
    )
    assert main([str(model), str(path)]) == 0
    said = capsys.readouterr().out
    assert "25" not in said.splitlines()[0]
    assert "1 of 2 comparisons read alike" in said
    assert "50.0% of the comparisons have equal scores" in said
    assert "1 responses were cut" in said


def test_prompts_of_the_training_are_counted(
    model: Path, tmp_path: Path, rows: tuple[Rows, Rows, Rows], capsys: pytest.CaptureFixture[str]
) -> None:
    from workers.rewards.data.snapshot import write_snapshot

    write_snapshot(tmp_path / "snapshot", *rows)
    path = lines(
        tmp_path / "pairs.jsonl",
        *[{"prompt": f"How do I keep plant {n} alive", "chosen": GOOD, "rejected": BAD} for n in (3, 400)],
    )
    out = tmp_path / "out.json"
    log = tmp_path / "progress.jsonl"
    command = [str(model), str(path), "--trained-on", str(tmp_path / "snapshot"), "--json", str(out)]
    assert main(command) == 0
    (result,) = json.loads(out.read_text())["benchmarks"]
    assert result["near_duplicates"]["n"] == 1
    assert result["near_duplicates"]["without"]["n"] == 1
    assert "1 prompts are near those it was trained on; without them overall" in capsys.readouterr().out
    assert not log.exists()


def test_refusals_are_one_line(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = lines(tmp_path / "a.jsonl", {"text": "x"})
    assert main([str(model), str(path)]) == 2
    assert capsys.readouterr().err.startswith("refused: a.jsonl line 1: no benchmark has the columns 'text'")
    path = lines(tmp_path / "b.jsonl", {"chosen": "a", "rejected": "b"})
    assert main([str(tmp_path / "nothing"), str(path)]) == 2
    assert "nothing" in capsys.readouterr().err
    assert main([str(model), str(path), "--trained-on", str(tmp_path / "gone")]) == 2
    assert capsys.readouterr().err.startswith("refused: ")
    assert read_benchmarks([path])[0].items[0].messages == []
