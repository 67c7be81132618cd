"""Packed rows give the numbers of one text at a time: scores, log-probabilities and gradients."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn as nn
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.rewards.config import RunConfig
from workers.rewards.models import attention, packing
from workers.rewards.models.distributed import Group
from workers.rewards.models.encode import ResponseEncoder, packable
from workers.rewards.models.load import load_backbone
from workers.rewards.models.packing import pack, packed_batches
from workers.rewards.models.reward_model import RewardModel, longest_text, set_dropout
from workers.rewards.text.sections import Encoded, collate

CPU = torch.device("cpu")
VOCABULARY = 60
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 96,
}
MODERN = SMALL | {
    f"{name}_token_id": number for number, name in enumerate(("pad", "bos", "eos", "cls", "sep"))
}
# config, model, settings, whether it packs, whether its last layer then computes only what is read
FAMILIES: dict[str, tuple[str, str, dict[str, Any], bool]] = {
    "bert": ("BertConfig", "BertModel", SMALL, True),
    "roberta": ("RobertaConfig", "RobertaModel", {**SMALL, "pad_token_id": 1}, True),
    "distilbert": (
        "DistilBertConfig",
        "DistilBertModel",
        {"vocab_size": VOCABULARY, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48},
        True,
    ),
    # relative positions are computed over the whole row
    "mpnet": ("MPNetConfig", "MPNetModel", SMALL, False),
    "modernbert": ("ModernBertConfig", "ModernBertModel", MODERN, True),
    # its window is narrower than the longest text
    "modernbert-narrow": (
        "ModernBertConfig",
        "ModernBertModel",
        {**MODERN, "local_attention": 16},
        False,
    ),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", {**SMALL, "num_key_value_heads": 2}, True),
    "llama": ("LlamaConfig", "LlamaForCausalLM", {**SMALL, "num_key_value_heads": 1}, True),
    "gpt2": (
        "GPT2Config",
        "GPT2LMHeadModel",
        {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 96},
        True,
    ),
}


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], RewardModel]:
    """A fresh model of a family, in eval mode, loaded as a run loads it, with weights large enough to matter."""
    folders: dict[str, Path] = {}

    def load(name: str) -> RewardModel:
        config, network_class, given, _ = FAMILIES[name]
        if name not in folders:
            torch.manual_seed(0)
            network = getattr(transformers, network_class)(getattr(transformers, config)(**given))
            for parameter in network.parameters():
                if parameter.ndim == 2:
                    nn.init.normal_(parameter, std=0.2)
            folders[name] = tmp_path_factory.mktemp(name)
            network.save_pretrained(folders[name])
        architecture = "causal" if "LM" in network_class else "encoder"
        torch.manual_seed(1)
        backbone = load_backbone(name, str(folders[name]), architecture)
        return RewardModel(backbone, architecture=architecture, kind="scalar").eval()

    return load


def texts(lengths: list[tuple[int, int, int]], seed: int = 0) -> list[Encoded]:
    """Rows from (prompt, prompt's length, response's length): rows of one prompt share its tokens.

    An encoder's head reads every second row whole, of the others the response.
    """
    rows = []
    for number, (prompt, head, tail) in enumerate(lengths):
        shared = torch.Generator().manual_seed(1000 * seed + 31 * prompt + head)
        own = torch.Generator().manual_seed(1000 * seed + 500 + number)
        # all ids are drawn, whatever pads or ends a text in this vocabulary; RoBERTa takes positions from its own
        ids = torch.randint(2, VOCABULARY, (head,), generator=shared).tolist()
        ids += torch.randint(2, VOCABULARY, (tail,), generator=own).tolist()
        pooled = min(head, head + tail - 1) if number % 2 == 0 else 0
        rows.append(Encoded(tuple(ids), head, head + tail, False, pooled))
    return rows


def one_by_one(model: RewardModel, rows: list[Encoded]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Scores and (causal) log-probabilities from the plain model, one unpadded text at a time."""
    scores, log_pi = [], []
    backbone: Any = model.backbone
    for row in rows:
        ids, lengths, pooled = collate([row], CPU)
        scores.append(model(ids, lengths, pooled))
        if model.architecture == "causal":
            table = backbone(input_ids=ids).logits[0].log_softmax(-1)
            log_pi.append(
                sum((table[t - 1, row.ids[t]] for t in range(row.start, row.stop)), torch.zeros(()))
            )
    return torch.cat(scores), torch.stack(log_pi) if log_pi else None


def gradients(
    model: RewardModel, scores: torch.Tensor, log_pi: torch.Tensor | None
) -> dict[str, torch.Tensor]:
    """Gradient of a sum in which every row counts differently."""
    weights = torch.linspace(-1, 2, len(scores), dtype=scores.dtype)
    loss = (weights * scores).sum()
    if log_pi is not None:
        loss = loss + 0.1 * (weights.flip(0) * log_pi).sum()
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def same(model: RewardModel, rows: list[Encoded], **options: Any) -> None:
    """Scores alone, with a causal model log-probabilities too; its head reads one of the last three tokens."""
    if model.architecture == "causal":
        rows = [
            dataclasses.replace(row, pooled=0, after=min(place % 3, len(row) - 1))
            for place, row in enumerate(rows)
        ]
    for policy in (False, True) if model.architecture == "causal" else (False,):
        same_with(model, rows, policy, **options)


def same_with(model: RewardModel, rows: list[Encoded], policy: bool, **options: Any) -> None:
    scores, log_pi = one_by_one(model, rows)
    log_pi = log_pi if policy else None
    expected = gradients(model, scores, log_pi)
    encoder = ResponseEncoder(model, CPU, 40, longest=max(map(len, rows)), **options)
    got, got_pi = encoder.scores(rows, log_probs=policy)
    found = gradients(model, got, got_pi)
    exact = scores.dtype == torch.float64
    torch.testing.assert_close(got, scores, rtol=1e-9 if exact else 1e-4, atol=1e-9 if exact else 1e-5)
    if policy:
        assert got_pi is not None
        assert log_pi is not None
        torch.testing.assert_close(got_pi.double(), log_pi.double(), rtol=1e-4, atol=1e-4)
    for name, parameter in model.named_parameters():
        value = expected.get(name, torch.zeros_like(parameter))  # empty responses leave the LM head alone
        torch.testing.assert_close(
            found.get(name, value * 0), value, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("name", FAMILIES)
def test_every_architecture_gives_the_same_packed_or_says_that_it_can_not(
    name: str, family: Callable[[str], RewardModel]
) -> None:
    model = family(name)
    rows = texts([(0, 5, 20), (0, 5, 3), (1, 9, 11), (0, 5, 20), (2, 4, 6)])
    packs = FAMILIES[name][3]
    assert packable(model, CPU, longest=25) == packs
    assert ResponseEncoder(model, CPU, 40, longest=25).packed == packs
    same(model, rows)
    same(model, rows, packing="sorted")
    assert not ResponseEncoder(model, CPU, 40, longest=25, packing="sorted").packed


LENGTHS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(1, 6), st.integers(0, 12)), min_size=1, max_size=9
)


@pytest.mark.parametrize(
    ("name", "places"), [("bert", 96), ("roberta", 94), ("distilbert", 512), ("gpt2", 96)]
)
def test_the_longest_text_is_one_that_the_model_has_positions_for(
    name: str, places: int, family: Callable[[str], RewardModel]
) -> None:
    """RoBERTa counts positions from its padding id plus one, so the last two are never reached."""
    model = family(name)
    assert longest_text(model.backbone) == places
    encoder = ResponseEncoder(model, CPU, 1000, longest=places)
    assert torch.isfinite(encoder(texts([(0, 5, places - 5)]))[0]).all()
    with pytest.raises((IndexError, RuntimeError)):
        encoder(texts([(0, 5, places - 4)]))


@settings(max_examples=6, deadline=None)
@given(lengths=LENGTHS, seed=st.integers(0, 99))
@pytest.mark.parametrize(
    ("name", "kept"),
    [("bert", None), ("bert", 30), ("qwen2", 0), ("qwen2", 30)],
)
def test_any_lengths_give_scores_log_probabilities_and_gradients_of_single_texts(
    name: str,
    kept: int | None,
    family: Callable[[str], RewardModel],
    lengths: list[tuple[int, int, int]],
    seed: int,
) -> None:
    same(family(name).double(), texts(lengths, seed), packing="packed", kept_tokens=kept)


@pytest.mark.parametrize("packing", ["packed", "sorted"])
def test_lora_trains_the_same_way(family: Callable[[str], RewardModel], packing: str) -> None:
    model = family("qwen2")
    model.add_lora(RunConfig(lora_rank=2))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.1)
    same(model.eval(), texts([(0, 5, 9), (0, 5, 3), (1, 4, 7), (0, 5, 5)]), packing=packing)


def test_a_shared_prompt_stands_in_the_row_once(family: Callable[[str], RewardModel]) -> None:
    rows = texts([(0, 6, 3), (0, 6, 4), (1, 5, 4), (0, 6, 0)])
    packed = pack(rows, CPU, causal=True)
    assert len(packed.ids) == 6 + 3 + 4 + (5 + 4)
    assert packed.positions.tolist() == [*range(6), 6, 7, 8, 6, 7, 8, 9, *range(9)]
    assert packed.pooled.tolist() == [8, 12, 21, 5]  # an empty response is scored at its prompt's last token
    assert packed.segments.queries == (6, 3, 4, 9)
    assert packed.segments.lengths == (6, 9, 10, 9)
    alone = pack(rows, CPU, causal=False)
    assert len(alone.ids) == sum(map(len, rows))
    assert alone.segments.keys is None


@settings(max_examples=50, deadline=None)
@given(LENGTHS, st.integers(5, 60), st.booleans())
def test_micro_batches_hold_every_row_once_within_the_budget(
    lengths: list[tuple[int, int, int]], budget: int, share: bool
) -> None:
    rows = texts(lengths)
    batches = packed_batches(rows, budget, share=share)
    assert sorted(position for batch in batches for position in batch) == list(range(len(rows)))
    for batch in batches:
        members = [rows[position] for position in batch]
        size = len(pack(members, CPU, causal=share).ids)
        assert size == packing.packed_tokens(members, share=share)
        most = max(budget, 2 * members[0].start) if share else budget
        assert size <= most or len(batch) == 1


def test_a_prompt_longer_than_the_budget_is_computed_once_for_its_responses() -> None:
    rows = texts([(0, 40, 5), (1, 30, 7), (0, 40, 9), (0, 40, 8), (0, 40, 30)])
    assert packed_batches(rows, 16, share=True) == [[1], [0, 3, 2], [4]]
    assert len(packed_batches(rows, 16, share=False)) == len(rows)


def test_processes_divide_the_tokens_that_they_compute(family: Callable[[str], RewardModel]) -> None:
    """A shared prompt counts once, so its responses may stay with one process."""
    rows = texts([(0, 40, 5), (0, 40, 5), (1, 8, 20), (0, 40, 5), (2, 8, 20)])
    encoder = ResponseEncoder(family("qwen2"), CPU, 60, longest=45, group=Group(size=2, device=CPU))
    assert encoder.shares(rows) == [[0, 1, 3], [2, 4]]


@pytest.mark.parametrize("name", ["bert", "qwen2"])
def test_other_kernels_see_the_same_boundaries(
    name: str, family: Callable[[str], RewardModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The GPU's two paths, on a CPU: padded attention, and a varlen kernel with FlashAttention's conventions."""
    model = family(name)
    rows = texts([(0, 5, 9), (0, 5, 3), (1, 4, 7), (0, 5, 5)])
    encoder = ResponseEncoder(model, CPU, 100, longest=14)
    expected, _ = encoder(rows)

    def varlen(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_q: torch.Tensor, cu_k: torch.Tensor,
        max_q: int, max_k: int, *, scale: float, window_size: tuple[int, int],
    ) -> torch.Tensor:  # fmt: skip
        assert q.shape[1] == k.shape[1]
        out = []
        for n in range(len(cu_q) - 1):
            queries, keys = slice(int(cu_q[n]), int(cu_q[n + 1])), slice(int(cu_k[n]), int(cu_k[n + 1]))
            scores = torch.einsum("qhd,khd->hqk", q[queries], k[keys]) * scale
            assert scores.shape[1] <= max_q
            assert scores.shape[2] <= max_k
            if window_size == (-1, 0):
                hidden = torch.ones(scores.shape[1:]).tril(scores.shape[2] - scores.shape[1]) == 0
                scores = scores.masked_fill(hidden, float("-inf"))
            out.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), v[keys]))
        return torch.cat(out)

    as_varlen = functools.partial(attention._torch_varlen, varlen, False)
    for kernel in (attention._padded, as_varlen):
        monkeypatch.setattr(attention, "_by_runs", kernel)
        got, _ = encoder(rows)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_attention_dropout_is_applied_in_training(tmp_path: Path) -> None:
    given = {**SMALL, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.3}
    transformers.BertModel(transformers.BertConfig(**given)).save_pretrained(tmp_path)
    model = RewardModel(load_backbone("x", str(tmp_path), "encoder"), architecture="encoder", kind="scalar")
    encoder = ResponseEncoder(model, CPU, 100, longest=20)
    rows = texts([(0, 5, 9), (1, 5, 3)])
    model.train()
    assert encoder.packed
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(encoder(rows)[0])
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.allclose(drawn[0], drawn[2])
    assert model.training


def test_saved_models_name_no_attention_of_ours(family: Callable[[str], RewardModel], tmp_path: Path) -> None:
    backbone: Any = family("bert").backbone
    backbone.save_pretrained(tmp_path)
    assert attention.ATTENTION not in (tmp_path / "config.json").read_text()


@pytest.mark.parametrize("name", ["bert", "roberta", "qwen2", "gpt2"])
def test_an_embedding_gradient_gathered_by_rows_is_the_dense_one(
    name: str, family: Callable[[str], RewardModel]
) -> None:
    rows = texts([(0, 5, 9), (0, 5, 3), (1, 4, 7), (2, 0, 6)])
    both = []
    for gathered in (False, True):
        model = family(name)
        if gathered:
            model.gather_embedding_gradient()
        # several micro-batches, some computed twice
        encoder = ResponseEncoder(model, CPU, 8, longest=16, kept_tokens=8)
        scores = encoder.scores(rows, log_probs=model.architecture == "causal")
        both.append(gradients(model, *scores))
        assert not any(grad.is_sparse for grad in both[-1].values())
    assert both[0].keys() == both[1].keys()
    for key, grad in both[0].items():
        torch.testing.assert_close(both[1][key], grad, rtol=1e-4, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}")


@pytest.mark.parametrize("name", ["bert", "qwen2"])
def test_gradient_checkpointing_and_dropout_are_what_they_say(
    name: str, family: Callable[[str], RewardModel]
) -> None:
    model, rows = family(name), texts([(0, 5, 9), (0, 5, 3), (1, 4, 7)])
    encoder = ResponseEncoder(model, CPU, 100, longest=14)
    expected = gradients(model, encoder(rows)[0].sum(1), None)
    model.checkpoint_gradients()
    set_dropout(model.backbone, 0.0)
    model.train()  # checkpointing is for training alone
    found = gradients(model, encoder(rows)[0].sum(1), None)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-5)
    set_dropout(model.backbone, 0.5)
    assert not torch.allclose(encoder(rows)[0], encoder(rows)[0])


def test_a_half_precision_base_scores_in_full(family: Callable[[str], RewardModel]) -> None:
    model, rows = family("qwen2"), texts([(0, 5, 9), (0, 5, 3), (1, 4, 7)])
    whole, _ = ResponseEncoder(model, CPU, 100, longest=14).scores(rows)
    model.backbone.to(torch.bfloat16)
    encoder = ResponseEncoder(model, CPU, 100, longest=14)
    assert encoder.packed
    scores, log_pi = encoder.scores(rows, log_probs=True)
    assert log_pi is not None
    assert scores.dtype == log_pi.dtype == torch.float32
    torch.testing.assert_close(scores, whole, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("name", ["qwen2", "llama"])
def test_attention_is_computed_in_the_autocast_type(
    name: str, family: Callable[[str], RewardModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rotary positions turn queries and keys of fp32 weights into fp32; kernels for whole rows take bf16 alone."""
    seen: set[torch.dtype] = set()
    plain = attention._by_runs

    def watched(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen.update((q.dtype, k.dtype, v.dtype))
        return plain(q, k, v, *rest)

    monkeypatch.setattr(attention, "_by_runs", watched)
    model = family(name)
    packed = pack(texts([(0, 5, 20), (0, 5, 3)]), CPU, causal=True)
    with torch.autocast("cpu", torch.bfloat16):
        model.hidden_packed(packed)
    assert seen == {torch.bfloat16}
