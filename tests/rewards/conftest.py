"""Tiny base models, built in the test run, and run folders around them."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from workers.rewards.data.snapshot import write_snapshot
from workers.rewards.models.encode import ResponseEncoder
from workers.rewards.training.starter import build_starter_lm
from workers.rewards.training.step import StepLoss

GOOD, NORMAL, BAD = "water it weekly and give it light", "water it", "no idea"
Rows = list[dict[str, Any]]


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One thread (the machine is shared, and sums stay in one order) and a cache of the test's own."""
    monkeypatch.setenv("CALIPER_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def rows() -> tuple[Rows, Rows, Rows]:
    """Responses, judgements and levels of 12 prompts with three answers: good > normal > bad, by two people."""
    responses: Rows = []
    judgements: Rows = []
    levels: Rows = []
    for number in range(12):
        question = f"how do i keep plant {number} alive"
        for level, text in (("good", GOOD), ("normal", NORMAL), ("bad", BAD)):
            responses.append(
                {
                    "response_id": f"{number}-{level}",
                    "prompt_id": f"p{number}",
                    "messages": [{"role": "user", "content": question}],
                    "text": f"{text} {number}",
                }
            )
            levels.append({"response_id": f"{number}-{level}", "level": level, "annotator": "ann"})
        for person in ("ann", "ben"):
            for better, worse in (("good", "normal"), ("normal", "bad"), ("good", "bad")):
                sides = [f"{number}-{better}", f"{number}-{worse}"]
                flipped = number % 2 == 1
                judgements.append(
                    {
                        "response_a": sides[flipped],
                        "response_b": sides[not flipped],
                        "verdict": "b" if flipped else "a",
                        "strength": 2 if (better, worse) == ("good", "bad") else None,
                        "annotator": person,
                    }
                )
    return responses, judgements, levels


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of one layer with a word vocabulary, saved as a base model."""
    folder = tmp_path_factory.mktemp("encoder")
    words = f"{GOOD} {NORMAL} {BAD} how do i keep plant alive score the and".split()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"0123456789[].,:#\\"]
    vocabulary += [word for word in dict.fromkeys(words) if word not in vocabulary]
    vocabulary += [f"[unused{number}]" for number in range(300 - len(vocabulary))]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_lm(tmp_path_factory: pytest.TempPathFactory, rows: tuple[Rows, Rows, Rows]) -> Path:
    """A Qwen2 of one layer from the starter's own code."""
    folder = tmp_path_factory.mktemp("lm") / "model"
    build_starter_lm(rows[0], folder, hidden_size=32, layers=1, vocabulary=400, epochs=1, seconds=5)
    return folder


@pytest.fixture
def make_run(tmp_path: Path, rows: tuple[Rows, Rows, Rows]) -> Callable[..., Path]:
    """make_run(base_model, method, name="run", responses=..., judgements=..., levels=..., **config) -> RUN_DIR"""

    def make(base_model: Path | str, method: str, name: str = "run", **given: Any) -> Path:
        folder = tmp_path / name
        tables = [given.pop(key, default) for key, default in zip(TABLES, rows, strict=True)]
        write_snapshot(folder / "snapshot", *tables)
        config = {"method": method, "base_model": str(base_model), "epochs": 3, "token_budget": 120, **given}
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    return make


@pytest.fixture
def step_loss() -> Callable[..., StepLoss]:
    """step_loss(model, config, data, rows, reliability=None, packing="auto") -> the loss of steps on the CPU"""

    def make(
        model: Any, config: Any, data: Any, rows: Any, reliability: Any = None, packing: str = "auto"
    ) -> StepLoss:
        encoder = ResponseEncoder(model, torch.device("cpu"), 60, longest=128, packing=packing)
        return StepLoss(model, config, data, rows, None, encoder, reliability)

    return make


TABLES = ("responses", "judgements", "levels")
