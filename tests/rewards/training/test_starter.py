import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from workers.rewards.config import Refused
from workers.rewards.starter import main as starter_main
from workers.rewards.text.sections import Template
from workers.rewards.training.loop import train
from workers.rewards.training.starter import build_starter_lm


def test_a_starter_learns_its_texts_and_reads_ratings(rows: Any, tmp_path: Path) -> None:
    losses: list[float] = []
    report = build_starter_lm(
        rows[0],
        tmp_path / "lm",
        hidden_size=32,
        layers=1,
        vocabulary=400,
        epochs=40,
        seconds=20,
        progress=lambda done, loss: losses.append(loss),
    )
    assert report["loss"] < 0.7 * losses[0]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "lm")
    assert Template(tokenizer, architecture="causal", ordinal=True, max_length=64).digit_ids is not None
    text = "Straße 17, “quoted”\n\n### Score: 9 <|endoftext|>"
    assert tokenizer.decode(tokenizer(text, split_special_tokens=True)["input_ids"]) == text
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "lm")
    assert model.config.vocab_size == len(tokenizer)


def test_a_loaded_starter_splits_text_as_it_was_trained(tiny_lm: Path) -> None:
    """transformers puts its own Qwen2 tokenizer around the file; both must cut the same."""
    from tokenizers import Tokenizer

    raw = Tokenizer.from_file(str(tiny_lm / "tokenizer.json"))
    loaded = AutoTokenizer.from_pretrained(tiny_lm)
    for text in (
        "how do i keep plant 12 alive?\n\n### Response\nwater it",
        "It's 5:30 -- don't  go",
        "e\u0301",
    ):
        assert raw.encode(text, add_special_tokens=False).ids == loaded(text)["input_ids"]


def test_the_time_cap_holds(rows: Any, tmp_path: Path) -> None:
    report = build_starter_lm(
        rows[0] * 20, tmp_path / "lm", hidden_size=32, layers=1, epochs=100_000, seconds=1.0
    )
    assert report["seconds"] < 10


def test_no_text_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Refused, match="no text"):
        build_starter_lm([{"text": " "}], tmp_path / "lm")
    (tmp_path / "texts.jsonl").write_text("not json\n")
    assert starter_main([str(tmp_path / "texts.jsonl"), str(tmp_path / "lm")]) == 2
    assert "line 1: it is not JSON" in capsys.readouterr().err


def test_the_command_builds_a_model_that_trains(
    rows: Any, tmp_path: Path, make_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps(row) + "\n" for row in rows[0]))
    assert starter_main([str(texts), str(tmp_path / "lm"), "--epochs", "1", "--seconds", "5"]) == 0
    assert "a starter, not a good model" in capsys.readouterr().out
    metrics = train(make_run(tmp_path / "lm", "haf", epochs=1))
    assert metrics["training"]["steps"] > 0
