"""The loss and gradients of TRL's RewardTrainer on the same ids, pairs and weights: fp32 to 1e-6, float64 to 1e-12.

TRL pads chosen and rejected to one rectangle and encodes a response once for each of its pairs; here each is encoded
once, and only the pairs meet. TRL is the oracle, never a dependency.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoConfig, AutoModel, Qwen2ForSequenceClassification
from trl.trainer.reward_config import RewardConfig
from trl.trainer.reward_trainer import RewardTrainer

from workers.rewards.artifacts.modeling_caliper import CaliperRewardConfig, CaliperRewardModel
from workers.rewards.config import RunConfig
from workers.rewards.data.judgements import TrainingData, training_data
from workers.rewards.data.snapshot import Snapshot, read_snapshot
from workers.rewards.data.split import Split
from workers.rewards.models.load import architecture_of, load_backbone, load_tokenizer
from workers.rewards.models.reward_model import RewardModel
from workers.rewards.objectives.outcomes import WIN
from workers.rewards.text.sections import Encoded, Template
from workers.rewards.training.batches import Step
from workers.rewards.training.step import StepLoss

Rows = list[dict[str, Any]]
CASES: list[tuple[str, dict[str, Any]]] = [
    ("plain", {"centring": 0.0, "strength": "none"}),
    ("margin", {"centring": 0.0, "strength": "margin", "strength_margin": 0.7}),
    ("centred", {"centring": 0.01, "strength": "none"}),
    ("margin and centred", {"centring": 0.3, "strength": "margin"}),
]


def theirs(architecture: str, path: Path, backbone: Any) -> Any:
    """The same backbone as TRL would train it: as a sequence classifier with one label."""
    if architecture == "causal":
        config = AutoConfig.from_pretrained(path, num_labels=1)
        other = Qwen2ForSequenceClassification(config)
        other.model.load_state_dict(backbone.model.state_dict())
        return other
    config = CaliperRewardConfig(backbone=AutoConfig.from_pretrained(path).to_dict(), num_labels=1)
    encoder = CaliperRewardModel(config)  # what export.py writes: the mean of all tokens, and a head
    assert isinstance(encoder.backbone, type(AutoModel.from_config(backbone.config)))
    encoder.backbone.load_state_dict(backbone.state_dict())
    return encoder


def pairs_of(data: TrainingData, rows: list[Encoded], config: RunConfig) -> Rows:
    made = [
        {"chosen_ids": list(rows[a].ids), "rejected_ids": list(rows[b].ids)}
        for a, b in zip(data.first.tolist(), data.second.tolist(), strict=True)
    ]
    if config.strength == "margin":
        for row, strength in zip(made, data.strength.tolist(), strict=True):
            row["margin"] = config.strength_margin * (strength - 1)
    return made


@pytest.mark.parametrize(
    ("base", "dtype", "prompts", "head_std", "tolerance"),
    [
        ("tiny_encoder", torch.float32, 4, 0.02, 1e-6),  # a new head's weights, a batch of 24 pairs
        ("tiny_lm", torch.float32, 4, 0.02, 1e-6),
        (
            "tiny_encoder",
            torch.float64,
            12,
            0.3,
            1e-12,
        ),  # Qwen2 takes its norms in fp32 whatever its weights are
    ],
    ids=["encoder-fp32", "causal-fp32", "encoder-float64"],
)
@pytest.mark.parametrize(("name", "options"), CASES, ids=[name for name, _ in CASES])
def test_loss_and_gradients_are_those_of_trl(
    base: str,
    dtype: torch.dtype,
    prompts: int,
    head_std: float,
    tolerance: float,
    name: str,
    options: dict[str, Any],
    request: pytest.FixtureRequest,
    make_run: Callable[..., Path],
    step_loss: Callable[..., StepLoss],
    tmp_path: Path,
) -> None:
    path = request.getfixturevalue(base)
    architecture = architecture_of("tiny", str(path))
    config = RunConfig.from_dict({"method": "bt", "micro_batch_tokens": 90, **options}).resolved(
        architecture, 32
    )
    whole = read_snapshot(make_run(path, "bt") / "snapshot")
    chosen = [row for row in whole.responses if int(row["prompt_id"][1:]) < prompts]
    inside = {row["response_id"] for row in chosen}
    snapshot = Snapshot(chosen, [row for row in whole.judgements if row["response_a"] in inside], [])
    data = training_data(snapshot, Split(frozenset(), "none"), config)
    assert data.outcome.eq(WIN).all()
    assert (config.strength_taught == "margin") == (data.strength.unique().numel() > 1)
    tokenizer = load_tokenizer("tiny", str(path))
    # rows of many lengths, so that both sides pad, and differently
    responses = [
        {**row, "text": " ".join([row["text"]] * (1 + number % 4))}
        for number, row in enumerate(snapshot.responses)
    ]
    rows = Template(tokenizer, architecture=architecture, ordinal=False, max_length=96).encode(responses)

    torch.manual_seed(0)
    backbone: Any = load_backbone("tiny", str(path), architecture)
    ours = RewardModel(backbone, architecture=architecture, kind="scalar").to(dtype).eval()
    assert isinstance(ours.head, torch.nn.Linear)
    torch.nn.init.normal_(ours.head.weight, std=head_std)
    other = theirs(architecture, path, backbone).to(dtype)
    head = other.score if architecture == "causal" else other.head
    head.weight.data.copy_(ours.head.weight.data)
    if architecture == "encoder":
        head.bias.data.zero_()

    step = Step(list(range(len(rows))), list(range(len(data.first))), [])
    summed = step_loss(ours, config, data, rows)
    loss = summed(step) / summed.weight(step)
    loss.backward()

    pairs = pairs_of(data, rows, config)
    used = {token for row in rows for token in row.ids}
    # transformers reads the last token that isn't padding; the eos that ends our rows must not be it
    unused = next(token for token, number in sorted(tokenizer.get_vocab().items()) if number not in used)
    tokenizer.pad_token = unused
    trainer = RewardTrainer(
        model=other,
        args=RewardConfig(
            output_dir=str(tmp_path / "trl"),
            center_rewards_coefficient=config.centring or None,
            report_to="none",
            use_cpu=True,
            bf16=False,
            max_length=None,
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(pairs),
        processing_class=tokenizer,
    )
    batch = trainer.data_collator(pairs)
    assert bool((batch["attention_mask"] == 0).any())
    expected = trainer.compute_loss(trainer.model.train(), batch)
    expected.backward()

    assert loss.dtype == expected.dtype == dtype
    assert loss.item() == pytest.approx(expected.item(), abs=tolerance, rel=0)
    found = {name: parameter.grad for name, parameter in ours.backbone.named_parameters()}
    body = other.model if architecture == "causal" else other.backbone
    compared = 0
    for parameter_name, parameter in body.named_parameters():
        mine = found["model." + parameter_name if architecture == "causal" else parameter_name]
        if mine is None:  # BERT's own pooler, which nobody reads
            assert parameter.grad is None or not parameter.grad.any()
            continue
        assert (mine - parameter.grad).abs().max().item() < tolerance, parameter_name
        compared += int(parameter.grad.any())
    assert compared > 10
    assert ours.head.weight.grad is not None
    assert (ours.head.weight.grad - head.weight.grad).abs().max().item() < tolerance
