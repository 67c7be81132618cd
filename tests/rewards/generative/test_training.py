"""A judge learns: from its own right judgements, by rule, and which of its texts to trust.

The form model of tiny.py scores by a taste that is as often wrong as right. Everything here is on one core.
"""

import contextlib
import importlib.util
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.rewards.generative.tiny import task
from workers.rewards.config import Refused, ResolvedConfig, RunConfig
from workers.rewards.data.snapshot import Snapshot
from workers.rewards.data.split import NOTHING
from workers.rewards.generative.finetune import Policy, RftReport, policy_of, rft
from workers.rewards.generative.items import Item, seed_of, training_items
from workers.rewards.generative.judge import correct
from workers.rewards.generative.judging import Judge, parsed
from workers.rewards.generative.meta import Meta, train_meta
from workers.rewards.generative.reinforce import fallen, grpo, refuse_trl
from workers.rewards.generative.sampling import TransformersSampler
from workers.rewards.generative.template import JudgeTemplate
from workers.rewards.models.base_models import Source
from workers.rewards.models.kinds import Base, look_at
from workers.rewards.models.load import load_tokenizer
from workers.rewards.training.progress import Progress, Stop, Stopped

pytestmark = pytest.mark.xdist_group("form model")  # it is made once a process

SAMPLES = 8
STEPS = 24  # of GRPO


@dataclass
class World:
    """A base model, items to learn from and others to measure on."""

    base: Base
    config: ResolvedConfig
    template: JudgeTemplate
    items: list[Item]
    held_out: list[Item]
    folder: Path
    progress: Progress

    def policy(self, config: ResolvedConfig | None = None) -> tuple[Policy, Judge]:
        """The base model anew, and it as a judge."""
        policy = policy_of(config or self.config, self.base, torch.device("cpu"), 512)
        tokenizer = self.template.tokenizer
        sampler = TransformersSampler(
            policy.model.backbone, tokenizer, policy.device, stop_ids=self.template.stop_ids
        )
        return policy, Judge(self.config, self.template, sampler)

    def accuracy(self, judge: Judge, samples: int = SAMPLES) -> tuple[float, float]:
        """Shares of held-out pairs that are right by one vote, and by the sum of so many."""
        shown = [item.drawn(1, sample) for item in self.held_out for sample in range(samples)]
        chats = [
            self.template.told(item.rows).chat(seed_of("held out", number))
            for number, item in enumerate(shown)
        ]
        scores = [parsed(answer, 2).scores for answer in judge.answered(chats, None)]  # in the order shown
        one = [
            correct(found, item.target, self.config.scale) > 0
            for found, item in zip(scores, shown, strict=True)
        ]
        right = 0
        for place in range(len(self.held_out)):
            margins = [
                found[best_of(item)] - found[1 - best_of(item)]
                for item, found in list(zip(shown, scores, strict=True))[
                    place * samples : (place + 1) * samples
                ]
                if found is not None
            ]
            right += sum(margins) > 0
        return sum(one) / len(one), right / len(self.held_out)


def best_of(item: Item) -> int:
    assert item.target is not None
    assert item.target.best is not None
    return item.target.best


class After(Stop):
    """Wants the run to end once it was asked so many times."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    @property
    def wanted(self) -> bool:
        self.looks -= 1
        return self.looks < 0


@pytest.fixture(scope="module")
def world(form_lm: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    config = RunConfig.from_dict(
        {
            "method": "grm",
            "base_model": str(form_lm),
            "tuning": "tuned",
            "max_new_tokens": 64,
            "learning_rate": 3e-3,
            "epochs": 10,  # six learn too little on some processors
            "token_budget": 512,
            "grpo_learning_rate": 6e-4,
        }
    )
    base = look_at(str(form_lm), Source(str(form_lm), None))
    responses, judgements = task(124)
    responses = [{"answer": None, "group": row["prompt_id"], **row} for row in responses]
    items, _ = training_items(Snapshot(responses, judgements, []), NOTHING, config)
    folder = tmp_path_factory.mktemp("grm")
    return World(
        base,
        config.resolved("causal", int(base.config.hidden_size)),
        JudgeTemplate("", load_tokenizer(str(form_lm), str(form_lm))),
        items[:100],
        items[100:],
        folder,
        Progress(folder / "progress.jsonl"),
    )


@dataclass
class Tuned:
    """What one round of rejective fine-tuning did."""

    judge: Judge
    policy: Policy
    report: RftReport
    before: tuple[float, float]
    after: tuple[float, float]


@pytest.fixture(scope="module")
def tuned(world: World) -> Tuned:
    policy, judge = world.policy()
    before = world.accuracy(judge)
    report = rft(
        world.items, judge, policy, world.config, world.folder / "rft", stop=Stop(), progress=world.progress
    )
    return Tuned(judge, policy, report, before, world.accuracy(judge))


@pytest.mark.slow
def test_rejective_fine_tuning_raises_held_out_accuracy(world: World, tuned: Tuned) -> None:
    (one_before, _), (one, eight) = tuned.before, tuned.after
    assert one_before < 0.55, "the form model's taste must not be the people's"
    assert one >= one_before + 0.3
    assert eight >= one


def test_what_is_kept(world: World, tuned: Tuned) -> None:
    counts, told = tuned.report.counts, tuned.report.trajectories
    assert counts["prompts"] == len(world.items)
    assert counts["drawn"] == len(told) == 3 * len(world.items) + sum(one.hinted for one in told)
    by_item: dict[tuple[str, ...], list[Any]] = {}
    for one in told:
        by_item.setdefault(tuple(sorted(one.responses)), []).append(one)
    for group in by_item.values():
        plain, hinted = group[:3], group[3:]
        right = [one.correct > 0 for one in plain]
        expected = ["too_easy"] * 3 if all(right) else ["kept" if one else "wrong" for one in right]
        assert [one.outcome for one in plain] == expected
        assert len(hinted) == (not any(right)), "a hint is given where all three were wrong, and there alone"
        assert all(one.hinted and one.outcome == ("kept" if one.correct > 0 else "wrong") for one in hinted)
    assert 0 < counts["hinted"] < counts["kept"] == sum(one.outcome == "kept" for one in told)
    assert counts["too_easy"] > 0
    assert counts["all_wrong"] > 0
    assert counts["unparsed"] == sum(one.parsed.scores is None for one in told)
    assert all(one.correct == -1 for one in told if one.parsed.scores is None)


def again(world: World, stop: Stop) -> tuple[Policy, Judge]:
    """RFT anew in another folder, from the trajectories that `tuned` has drawn."""
    folder = world.folder / "again"
    folder.mkdir(exist_ok=True)
    for path in (world.folder / "rft").glob("*.jsonl"):
        shutil.copy(path, folder)
    policy, judge = world.policy()
    with contextlib.suppress(Stopped):
        rft(world.items, judge, policy, world.config, folder, stop=stop, progress=world.progress)
    return policy, judge


@pytest.fixture(scope="module")
def half(world: World, tuned: Tuned) -> tuple[Policy, Judge]:
    """A judge that has learnt half: the training was stopped."""
    return again(world, After(len(tuned.report.losses) // 2))


def weights(policy: Policy) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in policy.model.named_parameters()}


def assert_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0, msg=name)


def test_fine_tuning_goes_on_where_it_was_stopped(
    world: World, tuned: Tuned, half: tuple[Policy, Judge]
) -> None:
    assert any(
        not torch.equal(value, weights(tuned.policy)[name]) for name, value in weights(half[0]).items()
    )
    assert_equal(weights(again(world, Stop())[0]), weights(tuned.policy))


@pytest.mark.slow
def test_reinforcement_raises_held_out_accuracy_further(world: World, half: tuple[Policy, Judge]) -> None:
    policy, judge = half
    before = world.accuracy(judge)
    config = replace(world.config, grpo_steps=STEPS, group=8)
    report = grpo(
        world.items, judge, policy, config, world.folder / "grpo", stop=Stop(), progress=world.progress
    )
    after = world.accuracy(judge)
    assert after[0] >= before[0] + 0.1
    assert after[1] >= after[0]
    assert [line["step"] for line in report.steps] == list(range(1, STEPS + 1))
    rewards = [line["reward"] for line in report.steps]
    assert sum(rewards[-4:]) > sum(rewards[:4])
    assert report.steps[0]["kl"] == pytest.approx(0, abs=1e-6), "the reference is the policy as it came"
    assert report.steps[-1]["kl"] > 1e-3


@pytest.mark.parametrize("tuning", ["tuned", "lora"])
def test_reinforcement_goes_on_where_it_was_stopped(world: World, tuning: str) -> None:
    config = replace(world.config, tuning=tuning, grpo_steps=3, group=2)
    items = world.items[:4]

    def done(name: str, stop: Stop, drawing: Stop | None = None) -> tuple[dict[str, torch.Tensor], Any]:
        policy, judge = world.policy(config)
        judge.stop = drawing or Stop()
        report = grpo(items, judge, policy, config, world.folder / name, stop=stop, progress=world.progress)
        return weights(policy), report

    straight, report = done(f"straight-{tuning}", Stop())
    with pytest.raises(Stopped):  # after a step, or while the next one's completions are drawn
        done(f"broken-{tuning}", *((After(1), Stop()) if tuning == "tuned" else (Stop(), After(12))))
    assert len(list((world.folder / f"broken-{tuning}").glob("checkpoint-*/whole"))) > 0
    resumed, as_before = done(f"broken-{tuning}", Stop())
    assert_equal(resumed, straight)
    assert as_before.steps == report.steps
    kept, given_back = done(f"broken-{tuning}", Stop())
    assert_equal(kept, straight)  # another call gives back what the first made
    assert given_back.steps == report.steps
    base, _ = world.policy(config)
    changed = [name for name, value in weights(base).items() if not torch.equal(value, straight[name])]
    assert changed
    assert tuning == "tuned" or all("lora_" in name for name in changed)


def test_a_meta_model_tells_right_from_wrong(world: World, tmp_path: Path) -> None:
    policy, judge = world.policy()
    meta = train_meta(
        world.items[:100], judge, policy, world.config, tmp_path, stop=Stop(), progress=world.progress
    )
    assert meta is not None
    assert meta.report["accuracy"] > max(meta.report["always_right"], 1 - meta.report["always_right"])
    meta.save(tmp_path)
    told = [one.trajectory for one in drawn_again(world, judge, tmp_path)]
    responses = {row["response_id"]: row for item in world.items for row in item.rows}
    values = [one.meta for one in meta.valued(told, responses)]
    assert [value is None for value in values] == [one.parsed.scores is None for one in told]
    loaded = Meta.load(tmp_path, policy.model, world.template)
    assert [one.meta for one in loaded.valued(told, responses)] == values
    assert loaded.report == meta.report


def drawn_again(world: World, judge: Judge, folder: Path) -> Sequence[Any]:
    """The first trajectories that the meta model was made of."""
    from workers.rewards.generative.finetune import draw

    wanted = [(item, sample) for item in world.items[:100] for sample in range(3)]
    return draw(wanted, judge, world.config, folder / "drawn.jsonl", world.progress)[:20]


def test_a_model_that_does_not_know_the_form_is_refused(world: World, tiny_lm: Path, tmp_path: Path) -> None:
    base = look_at(str(tiny_lm), Source(str(tiny_lm), None))
    template = JudgeTemplate("", load_tokenizer(str(tiny_lm), str(tiny_lm)), max_length=256)
    stranger = replace(world, base=base, template=template)
    policy, judge = stranger.policy()
    given: dict[str, Any] = {"stop": Stop(), "progress": world.progress}
    with pytest.raises(Refused, match=r"none of the first 48 samples could be read .* instruct"):
        rft(world.items, judge, policy, world.config, tmp_path / "rft", **given)
    with pytest.raises(Refused, match=r"none of the first \d+ samples could be read .* instruct"):
        grpo(world.items, judge, policy, world.config, tmp_path / "grpo", **given)


def test_grpo_without_trl_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    found: Callable[..., Any] = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *rest: None if name == "trl" else found(name, *rest)
    )
    with pytest.raises(Refused, match=r"caliper\[generative\]"):
        refuse_trl()


@pytest.mark.parametrize(
    ("rewards", "kept"),
    [([-0.1, 0.2, 0.0, 0.4], True), ([0.4, 0.2, 0.1, 0.0], True), ([0.0, -0.5, -1.0, -1.0], False)],
)
def test_a_reward_that_falls_far_costs_the_weights(rewards: list[float], kept: bool) -> None:
    assert (fallen([{"reward": reward} for reward in rewards]) == "") is kept
