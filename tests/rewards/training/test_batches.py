import dataclasses
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.datasets import load_pl_humor
from tests.conftest import shared_data
from workers.rewards import objectives
from workers.rewards.artifacts.save import load_model
from workers.rewards.config import RunConfig
from workers.rewards.data.judgements import training_data
from workers.rewards.data.snapshot import read_snapshot, write_snapshot
from workers.rewards.data.split import Split
from workers.rewards.models.load import load_backbone, load_tokenizer
from workers.rewards.models.packing import micro_batches, restore_order
from workers.rewards.models.reward_model import RewardModel
from workers.rewards.text.sections import Encoded, Template, collate
from workers.rewards.training.batches import AT_LEAST, PER_STEP, WHOLE, Blocks, Draws, Step
from workers.rewards.training.loop import train
from workers.rewards.training.step import StepLoss


class Scorer(torch.nn.Module):
    """A scalar head alone, on features that are at hand."""

    tie = bad_threshold = strength_steps = None

    def __init__(self, head: torch.nn.Linear) -> None:
        super().__init__()
        self.head = head

    def score(self, features: torch.Tensor) -> torch.Tensor:
        return self.head(features)[:, 0]


EDGES = st.lists(
    st.tuples(st.integers(0, 19), st.integers(0, 19)).filter(lambda p: p[0] != p[1]), max_size=80
)


@settings(max_examples=60, deadline=None)
@given(EDGES, st.lists(st.integers(0, 24), max_size=20), st.integers(20, 400), st.integers(0, 5))
def test_every_label_is_used_exactly_once_within_the_budget(
    pairs: list[tuple[int, int]], level_rows: list[int], budget: int, epoch: int
) -> None:
    lengths = [random.Random(n).randint(5, 40) for n in range(25)]
    steps = Blocks(pairs, level_rows, lengths, budget).epoch(7, epoch)
    assert Counter(row for step in steps for row in step.judgements) == Counter(range(len(pairs)))
    assert Counter(row for step in steps for row in step.levels) == Counter(range(len(level_rows)))
    for step in steps:
        assert len(set(step.responses)) == len(step.responses)
        inside = set(step.responses)
        assert all(set(pairs[row]) <= inside for row in step.judgements)
        assert all(level_rows[row] in inside for row in step.levels)
        total = sum(lengths[response] for response in step.responses)
        assert total <= WHOLE * budget or len(step.responses) <= 2


def test_epochs_differ_and_repeat() -> None:
    pairs = [(a, b) for a in range(12) for b in range(a)]
    blocks = Blocks(pairs, [], [10] * 12, 40)
    assert blocks.epoch(0, 0) == blocks.epoch(0, 0)
    assert blocks.epoch(0, 0) != blocks.epoch(0, 1)
    assert blocks.epoch(0, 0) != blocks.epoch(1, 0)


def test_a_dense_topic_shares_encodings() -> None:
    pairs = [(a, b) for a in range(40) for b in range(a)]
    steps = Blocks(pairs, [], [10] * 40, 200).epoch(0, 0)
    assert sum(len(step.responses) for step in steps) < 2 * len(pairs) / 4


def test_left_over_blocks_share_a_step() -> None:
    """A web of pairs that no block covers at once: what is left over doesn't make steps of a pair each."""
    draw = random.Random(0)
    pairs = [(draw.randrange(150), draw.randrange(150, 300)) for _ in range(3000)]
    steps = Blocks(pairs, [], [10] * 300, 400).epoch(0, 0)
    tokens = [10 * len(step.responses) for step in steps]
    assert max(tokens) <= 400
    assert sum(tokens) / len(tokens) > 300
    assert sorted(len(step.judgements) for step in steps)[1] > 5  # the last block may be small


@settings(max_examples=30, deadline=None)
@given(EDGES.filter(len), st.lists(st.integers(0, 24), max_size=20), st.integers(0, 5))
def test_drawn_steps_use_every_label_once_and_have_equal_shares(
    pairs: list[tuple[int, int]], level_rows: list[int], epoch: int
) -> None:
    first, second = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T
    draws = Draws(first, second, torch.tensor(level_rows, dtype=torch.int64))
    steps = draws.epoch(7, epoch)
    assert Counter(row for step in steps for row in step.judgements) == Counter(range(len(pairs)))
    assert Counter(row for step in steps for row in step.levels) == Counter(range(len(level_rows)))
    sizes = [len(step.judgements) + len(step.levels) for step in steps]
    assert max(sizes) - min(sizes) <= 1
    for step in steps:
        sides = {side for row in step.judgements for side in pairs[row]}
        assert step.responses == sorted(sides | {level_rows[row] for row in step.levels})
    assert steps == draws.epoch(7, epoch)


def test_drawn_steps_are_many_enough_and_small_enough() -> None:
    for terms, steps in ((3, 3), (100, AT_LEAST), (PER_STEP * 100, 100)):
        rows = torch.arange(terms)
        assert len(Draws(rows, rows + 1, rows[:0]).epoch(0, 0)) == steps


@pytest.mark.parametrize("drawn", [False, True])
def test_an_epoch_adds_up_to_the_pairwise_mean(drawn: bool, tmp_path: Path) -> None:
    """On real votes: whatever a step holds, each vote moves the weights by the same share of an epoch."""
    rows = load_pl_humor(shared_data("pl_humor"), held_out=0.0)
    write_snapshot(tmp_path, *rows)
    index = {row["response_id"]: number for number, row in enumerate(rows.responses)}
    config = RunConfig.from_dict({"method": "bt", "reliability": False}).resolved("encoder", 8)
    data = training_data(read_snapshot(tmp_path), Split(frozenset(), "none"), config)
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 1).double()
    features = torch.randn(len(index), 8, dtype=torch.float64)
    model: Any = Scorer(head)
    encoder: Any = SimpleNamespace(device=torch.device("cpu"))
    loss = StepLoss(model, config, data, [Encoded((), 0, 0, False)] * len(index), features, encoder)
    if drawn:
        steps = Draws(data.first, data.second, data.level_response).epoch(0, 0)
    else:
        lengths = [len(row["text"]) // 4 + 4 for row in rows.responses]
        pairs = list(zip(data.first.tolist(), data.second.tolist(), strict=True))
        steps = Blocks(pairs, [], lengths, 2048).epoch(0, 0)
        counts = [len(step.judgements) for step in steps]
        assert max(counts) > 5 * min(counts), "steps of this web differ"
    mean_weight = sum(map(loss.weight, steps)) / len(steps)
    for step in steps:
        (loss(step) / mean_weight).backward()
    assert head.weight.grad is not None
    epoch = head.weight.grad / len(steps)

    head.weight.grad = None
    reward = features @ head.weight[0] + head.bias
    a, b = reward[data.first], reward[data.second]
    (-torch.nn.functional.logsigmoid(a - b) + config.centring * (a + b) ** 2).mean().backward()
    torch.testing.assert_close(epoch, head.weight.grad, rtol=1e-5, atol=0)


def test_micro_batches_cover_sorted_by_length_and_restore_the_order() -> None:
    lengths = [7, 3, 9, 3, 50, 8]
    batches = micro_batches(lengths, 20)
    assert sorted(position for batch in batches for position in batch) == list(range(6))
    assert all(len(batch) * max(lengths[p] for p in batch) <= 20 or len(batch) == 1 for batch in batches)
    parts = [torch.tensor([float(p) for p in batch]) for batch in batches]
    assert restore_order(parts, batches).tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("packing", ["packed", "sorted"])
@pytest.mark.parametrize("method", ["bt", "oprm", "rgft", "clf"])
def test_the_gradient_is_the_naive_pairwise_one(
    method: str,
    packing: str,
    make_run: Callable[..., Path],
    step_loss: Callable[..., StepLoss],
    tiny_encoder: Path,
) -> None:
    """A step's loss and gradient equal those of encoding both sides of every judgement on its own, by weight."""
    folder = make_run(tiny_encoder, method)
    config = RunConfig.from_dict({"method": method, "micro_batch_tokens": 60, "strength": "margin"})
    config = dataclasses.replace(config.resolved("encoder", 32), level_terms="all")
    data = training_data(read_snapshot(folder / "snapshot"), Split(frozenset(), "none"), config)
    data.weight = torch.rand(len(data.first), generator=torch.Generator().manual_seed(0)) + 0.5
    snapshot = read_snapshot(folder / "snapshot")
    from transformers import AutoTokenizer

    template = Template(
        AutoTokenizer.from_pretrained(tiny_encoder),
        architecture="encoder",
        ordinal=config.ordinal,
        max_length=64,
    )
    rows = template.encode(snapshot.responses)
    torch.manual_seed(0)
    backbone = load_backbone("tiny", str(tiny_encoder), "encoder")
    model = RewardModel(backbone, architecture="encoder", kind=config.kind).eval()
    if not config.ordinal:
        model.add_cuts(-0.3, 0.5)
    model.double()
    cpu = torch.device("cpu")
    step = Step(
        list(range(9)), [r for r in range(len(data.first)) if data.first[r] < 9 and data.second[r] < 9], []
    )
    levels = [r for r in range(len(data.level_response)) if data.level_response[r] < 9]
    step = dataclasses.replace(step, levels=levels)
    summed = step_loss(model, config, data, rows, packing=packing)
    loss = summed(step) / summed.weight(step)
    loss.backward()
    whole = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    summed.encoder.kept_tokens = max(map(len, rows)) * 3  # a prompt's three responses
    several = summed.parts(step)
    assert [sorted(part.responses) for part in several] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    for field in ("judgements", "levels"):
        rows_of = [row for part in several for row in getattr(part, field)]
        assert sorted(rows_of) == sorted(getattr(step, field))
    for part in several:
        (summed(part, step) / summed.weight(step)).backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, whole[name], rtol=1e-9, atol=1e-12)
    shared = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    model.zero_grad()
    region = config.region if method == "rgft" else "none"
    terms = []

    def score(response: int) -> torch.Tensor:
        return model(*collate([rows[response]], cpu))

    for row in step.judgements:
        a, b, outcome = int(data.first[row]), int(data.second[row]), data.outcome[row : row + 1]
        strength = int(data.strength[row])
        if config.ordinal:
            mask = objectives.region_mask(
                config.scale, region, int(data.level[a]), int(data.level[b]), strength
            )
            log_a, log_b = objectives.log_ratings(score(a)), objectives.log_ratings(score(b))
            terms.append(objectives.oprm_terms(log_a, log_b, outcome, mask[None], config.scale.masks()[0]))
        elif method == "clf":
            terms.append(objectives.clf_terms(score(a), score(b), outcome))
        else:
            margin = torch.tensor(config.strength_margin * (strength - 1))
            terms.append(
                objectives.bt_terms(score(a), score(b), outcome, margin=margin, centring=config.centring)
            )
    for row in step.levels:
        if not config.ordinal:
            by_level = objectives.log_levels(score(int(data.level_response[row])), model.cuts)
            terms.append(-by_level[:, int(data.level_value[row])])
            continue
        mask = config.scale.masks()[data.level_value[row : row + 1]]
        terms.append(
            objectives.level_terms(objectives.log_ratings(score(int(data.level_response[row]))), mask)
        )
    weights = torch.cat([data.weight[step.judgements], torch.ones(len(step.levels))])
    naive = (weights * torch.cat(terms)).sum() / weights.sum()
    if config.ordinal:
        ratings = torch.cat([objectives.log_ratings(score(response)) for response in step.responses])
        naive = naive + config.smoothness * objectives.roughness(ratings).mean()
    naive.backward()
    torch.testing.assert_close(loss, naive, rtol=1e-6, atol=1e-6)
    assert shared
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(shared[name], parameter.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("base", ["tiny_encoder", "tiny_lm"])
def test_scores_do_not_depend_on_the_batch(
    base: str, request: pytest.FixtureRequest, make_run: Callable[..., Path]
) -> None:
    """Padding, its id and neighbours change nothing: eight rows at once are eight times one."""
    folder = make_run(request.getfixturevalue(base), "bt", epochs=1)
    train(folder)
    model, template, _ = load_model(folder / "model")
    rows = template.encode(read_snapshot(folder / "snapshot").responses[:8])
    cpu = torch.device("cpu")
    with torch.no_grad():
        together = model(*collate(rows, cpu))
        alone = torch.cat([model(*collate([row], cpu)) for row in rows])
        ids, lengths, pooled = collate(rows, cpu)
        for number, row in enumerate(rows):
            ids[number, len(row) :] = int(ids.max())  # another padding id
        other = model(ids, lengths, pooled)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together, other, rtol=0, atol=0)


@pytest.mark.parametrize("head", ["scalar", "ordinal"])
def test_haf_is_its_reward_loss_and_alpha_times_the_policy_loss(
    head: str,
    make_run: Callable[..., Path],
    step_loss: Callable[..., StepLoss],
    tiny_lm: Path,
) -> None:
    """Both heads, pair by pair; the reference is the starting weights, and a tie has no policy term."""
    given = {
        "method": "haf",
        "haf_head": head,
        "micro_batch_tokens": 200,
        "alpha": 0.7,
    }
    config = RunConfig.from_dict(given).resolved("causal", 32)
    snapshot = read_snapshot(make_run(tiny_lm, "haf") / "snapshot")
    data = training_data(snapshot, Split(frozenset(), "none"), config)
    data.outcome[:6] = objectives.TIE
    template = Template(
        load_tokenizer("tiny", str(tiny_lm)), architecture="causal", ordinal=config.ordinal, max_length=96
    )
    rows = template.encode(snapshot.responses)
    model = RewardModel(
        load_backbone("tiny", str(tiny_lm), "causal"),
        architecture="causal",
        kind=config.kind,
        digit_ids=template.digit_ids,
    )
    model.add_thresholds(ties=head == "scalar", both_bad=False)
    loss = step_loss(model.eval(), config, data, rows)
    loss.keep_reference(lambda done, total: None)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    step = Step(
        list(range(12)), [r for r in range(len(data.first)) if data.first[r] < 12 > data.second[r]], []
    )
    terms = []
    for row in step.judgements:
        sides = []
        for response in (int(data.first[row]), int(data.second[row])):
            encoded, cpu = rows[response], torch.device("cpu")
            ids, lengths, pooled = collate([encoded], cpu)
            backbone: Any = model.backbone
            table = backbone(input_ids=ids).logits[0].log_softmax(-1)
            own = range(encoded.start, encoded.stop)
            log_pi = torch.stack([table[place - 1, encoded.ids[place]] for place in own]).sum()[None]
            start = given_reference(loss)[response : response + 1]
            sides.append((model(ids, lengths, pooled), log_pi, start))
        (score_a, pi_a, ref_a), (score_b, pi_b, ref_b) = sides
        outcome = data.outcome[row : row + 1]
        if head == "ordinal":
            below = objectives.region_mask(config.scale, "none", 3, 3, int(data.strength[row]))
            log_a, log_b = objectives.log_ratings(score_a), objectives.log_ratings(score_b)
            term = objectives.oprm_terms(log_a, log_b, outcome, below, config.scale.masks()[0])
        else:
            margin = torch.tensor(config.strength_margin * (int(data.strength[row]) - 1))
            options = {"margin": margin, "tie": model.tie, "centring": config.centring}
            term = objectives.bt_terms(score_a, score_b, outcome, **options)
        if outcome.item() == objectives.WIN:
            policy = objectives.dpo_terms(pi_a, pi_b, ref_a, ref_b, beta=0.1)
            term = term + 0.7 * policy
        terms.append(term)
    torch.testing.assert_close(loss(step), torch.cat(terms).sum(), rtol=1e-5, atol=1e-6)


def given_reference(loss: StepLoss) -> torch.Tensor:
    assert loss.reference is not None
    return loss.reference
