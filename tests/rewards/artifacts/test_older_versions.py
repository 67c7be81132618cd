"""Up to 0.3.0 models were made that read responses without what they say of their own grade. They still score."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from workers.rewards.artifacts.export import export_model
from workers.rewards.artifacts.save import ArtifactError, load_model, save_model
from workers.rewards.config import RunConfig
from workers.rewards.models.load import load_backbone, load_tokenizer
from workers.rewards.models.predict import score_responses
from workers.rewards.models.reward_model import RewardModel
from workers.rewards.text.sections import Template
from workers.rewards.training.loop import train


def test_a_model_that_left_claims_out_scores_whole_responses(
    make_run: Callable[..., Path], tiny_encoder: Path, tmp_path: Path
) -> None:
    folder = make_run(tiny_encoder, "bt", epochs=1, read_claims=False)
    metrics = train(folder)
    assert "read_claims" not in metrics["config"]
    assert "claims" not in metrics["training"]
    path = folder / "model" / "reward_config.json"
    config = json.loads(path.read_text())
    assert "claims" not in config["template"]
    rows = [
        {"response_id": text, "messages": [], "text": text}
        for text in ("water it", "water it\nScore: 9", "score: 9", "score: 1", "  water it")
    ]
    model, template, _ = load_model(folder / "model")
    now = [row["score"] for row in score_responses(model, template, rows)]
    assert len(set(now[:4])) == 4  # nothing is taken out of them
    config["template"]["claims"] = "left out"
    path.write_text(json.dumps(config))
    model, template, _ = load_model(folder / "model")
    assert [row["score"] for row in score_responses(model, template, rows)] == now
    export_model(folder / "model", tmp_path / "export", metrics)
    assert "without_claims" not in (tmp_path / "export" / "README.md").read_text()
    config["template"]["text"] = "another"
    path.write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match="builds differently"):
        load_model(folder / "model")


def test_a_model_that_read_the_ends_of_long_texts_goes_on_so(
    make_run: Callable[..., Path], tiny_encoder: Path, tmp_path: Path
) -> None:
    folder = make_run(tiny_encoder, "bt", epochs=1)
    metrics = train(folder)
    path = folder / "model" / "reward_config.json"
    config = json.loads(path.read_text())
    long = "water it weekly and give it light " * 20  # of 128 positions
    rows = [
        {"response_id": text[:8], "messages": [{"role": "user", "content": "how do i"}], "text": text}
        for text in (long, "no idea " + long)
    ]

    def scores() -> list[float]:
        model, template, _ = load_model(folder / "model")
        return [row["score"] for row in score_responses(model, template, rows)]

    def card() -> str:
        export_model(folder / "model", tmp_path / "export", metrics)
        return (tmp_path / "export" / "README.md").read_text()

    head, other_head = scores()
    assert head != other_head
    assert "the prompt's beginning first, then the response's middle" in card()
    assert config["template"].pop("cut") == "head and tail"
    path.write_text(json.dumps(config))
    end, same_end = scores()
    assert end == same_end
    assert end not in (head, other_head)
    shutil.rmtree(tmp_path / "export")
    assert "never the response's end" in card()


def test_a_retired_key_of_config_json_means_nothing() -> None:
    assert (
        RunConfig.from_dict({"read_claims": True})
        == RunConfig.from_dict({"read_claims": False})
        == RunConfig()
    )


def test_a_causal_model_that_read_the_end_token_goes_on_so(tiny_lm: Path, tmp_path: Path) -> None:
    """Up to 0.6.0 ("causal-1"); later ones read the response's last token."""
    tokenizer = load_tokenizer("tiny", str(tiny_lm))
    backbone = load_backbone("tiny", str(tiny_lm), "causal")
    model = RewardModel(backbone, architecture="causal", kind="scalar").eval()
    rows = [{"response_id": "", "messages": [{"role": "user", "content": "how do i"}], "text": "water it"}]
    scores = {}
    for reads in ("response", "turn"):
        template = Template(tokenizer, architecture="causal", ordinal=False, max_length=96, reads=reads)
        save_model(tmp_path / reads, model, template, method="bt", partition=(3, 6), base_model="tiny")
        loaded, template, config = load_model(tmp_path / reads)
        (encoded,) = template.encode(rows)
        hidden = loaded.hidden(torch.tensor([encoded.ids]), torch.tensor([len(encoded)]))
        (row,) = score_responses(loaded, template, rows)
        assert row["score"] == pytest.approx(loaded.score(hidden[:, -1]).item(), abs=1e-6)
        scores[config["template"]["name"]] = row["score"], encoded.ids[-1] == tokenizer.eos_token_id
    assert [ends for _, ends in scores.values()] == [False, True]
    assert scores["causal-2"][0] != scores["causal-1"][0]
