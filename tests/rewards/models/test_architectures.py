"""Base models of every architecture that people name: what each is taken for, trained a step, saved and loaded."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import torch.nn as nn
import transformers

from workers.rewards.artifacts.save import load_model
from workers.rewards.data.snapshot import read_snapshot
from workers.rewards.models.base_models import Source
from workers.rewards.models.encode import ResponseEncoder
from workers.rewards.models.kinds import Base, look_at
from workers.rewards.models.load import load_base
from workers.rewards.models.reward_model import longest_text
from workers.rewards.text.sections import collate
from workers.rewards.training.loop import train

MakeRun = Callable[..., Path]
CPU = torch.device("cpu")
POSITIONS = 160
SMALL: dict[str, Any] = {
    "vocab_size": 420,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": POSITIONS,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
GROUPED = {**SMALL, "num_key_value_heads": 2}
GEMMA = {**GROUPED, "head_dim": 8, "sliding_window": 64}
DEBERTA = {
    **SMALL,
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "type_vocab_size": 0,
}
MODERN = {**SMALL, "cls_token_id": 0, "sep_token_id": 0, "local_attention": 128}
GPT2 = {"vocab_size": 420, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": POSITIONS}
TIED = {**GROUPED, "tie_word_embeddings": True}
# class, its settings, what it is, the longest text that it has positions for
FAMILIES: dict[str, tuple[str, dict[str, Any], str, int]] = {
    "bert": ("BertForMaskedLM", SMALL, "encoder", POSITIONS),
    "roberta": ("RobertaModel", {**SMALL, "pad_token_id": 1}, "encoder", POSITIONS - 2),
    "deberta-v3": ("DebertaV2Model", DEBERTA, "encoder", POSITIONS),
    "modernbert": ("ModernBertForMaskedLM", MODERN, "encoder", POSITIONS),
    "bert, reward model": ("BertForSequenceClassification", {**SMALL, "num_labels": 1}, "encoder", POSITIONS),
    "qwen2": ("Qwen2ForCausalLM", GROUPED, "causal", POSITIONS),
    "qwen3": ("Qwen3ForCausalLM", {**TIED, "head_dim": 8}, "causal", POSITIONS),
    "llama": ("LlamaForCausalLM", GROUPED, "causal", POSITIONS),
    "mistral": ("MistralForCausalLM", GROUPED, "causal", POSITIONS),
    "gemma3": ("Gemma3ForCausalLM", GEMMA, "causal", POSITIONS),
    "phi": ("PhiForCausalLM", SMALL, "causal", POSITIONS),
    "gpt2": ("GPT2LMHeadModel", GPT2, "causal", POSITIONS),
    "qwen2, reward model": (
        "Qwen2ForSequenceClassification",
        {**GROUPED, "num_labels": 1},
        "causal",
        POSITIONS,
    ),
    "qwen3, reward model": (
        "Qwen3ForSequenceClassification",
        {**TIED, "head_dim": 8, "num_labels": 1},
        "causal",
        POSITIONS,
    ),
    "llama, reward model": (
        "LlamaForSequenceClassification",
        {**GROUPED, "num_labels": 1},
        "causal",
        POSITIONS,
    ),
}
CLASSIFIERS = [name for name in FAMILIES if "reward model" in name and FAMILIES[name][2] == "causal"]


@pytest.fixture(scope="session")
def base_model(tmp_path_factory: pytest.TempPathFactory, tiny_lm: Path) -> Callable[[str], Path]:
    """base_model(family) is a folder with random weights, large enough to matter, and the one tokenizer of all."""
    folders: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in folders:
            network, settings, _, _ = FAMILIES[family]
            folders[family] = tmp_path_factory.mktemp("base") / network
            write_model(folders[family], network, settings, tiny_lm)
        return folders[family]

    return make


def write_model(folder: Path, network: str, settings: dict[str, Any], tokenizer: Path) -> Any:
    """Saves a model of this class as transformers save it, with random weights; returns it."""
    made = getattr(transformers, network)
    torch.manual_seed(0)
    model = made(made.config_class(**settings)).eval()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    for file in tokenizer.glob("tokenizer*.json"):
        shutil.copyfile(file, folder / file.name)
    return model


def look(folder: Path) -> Base:
    return look_at("model", Source(str(folder)))


def messages(run: Path) -> list[str]:
    lines = (run / "progress.jsonl").read_text().splitlines()
    return [said for line in lines if (said := json.loads(line).get("message"))]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_architecture_trains_and_loads_again(
    family: str, base_model: Callable[[str], Path], make_run: MakeRun
) -> None:
    _, _, architecture, longest = FAMILIES[family]
    base = look(base_model(family))
    assert base.architecture == architecture
    assert base.classifier == ("reward model" in family)
    assert longest_text(load_base(base)) == longest
    run = make_run(base_model(family), "bt", epochs=1, token_budget=1500)
    metrics = train(run)
    assert metrics["config"]["backbone"] == architecture
    model, template, _ = load_model(run / "model")
    assert template.max_length == longest
    before, after = load_base(base).state_dict(), model.backbone.state_dict()
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    responses = read_snapshot(run / "snapshot").responses
    rows = template.encode(responses)
    told = {
        row["response_id"]: row["score"] for row in pq.read_table(run / "predictions.parquet").to_pylist()
    }
    expected = [told[row["response_id"]] for row in responses]
    assert max(expected) - min(expected) > 0.01
    with torch.no_grad():
        alone = [model(*collate([row], CPU)).item() for row in rows]
        together = ResponseEncoder(model, CPU, 300, longest=longest).scores(rows)[0].tolist()
    assert alone == pytest.approx(expected, abs=1e-4)
    assert together == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("family", CLASSIFIERS)
def test_a_reward_models_head_is_taken_over(
    family: str, base_model: Callable[[str], Path], make_run: MakeRun
) -> None:
    """A run of no learning rate scores as transformers do at the same ids."""
    folder = base_model(family)
    run = make_run(folder, "bt", epochs=1, learning_rate=0.0, head_learning_rate=0.0)
    train(run)
    assert f"the head goes on from {folder}'s" in messages(run)
    model, template, _ = load_model(run / "model")
    published: Any = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    published.config.pad_token_id = None  # it then reads the last token
    for row in template.encode(read_snapshot(run / "snapshot").responses[:4]):
        read = torch.tensor([row.ids])[:, : len(row) - getattr(row, "after", 0)]
        with torch.no_grad():
            theirs = published(read).logits.item()
            ours = model(*collate([row], CPU)).item()
        assert ours == pytest.approx(theirs, abs=1e-5)
