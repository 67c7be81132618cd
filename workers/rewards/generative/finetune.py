"""Rejective fine-tuning (RFT, arXiv 2504.02495 section 3.2): learn from one's own judgements that were right.

The loss is next-token cross-entropy on the kept trajectories' completions, by the packed loop that reward models learn
with.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..config import ADAPTED, Refused, ResolvedConfig, default_rate
from ..models.encode import ResponseEncoder
from ..models.kinds import Base
from ..models.load import load_adapters
from ..models.memory import Memory, fit, free_bytes, sizes
from ..models.reward_model import RewardModel, set_dropout
from ..models.sharding import clip_gradients
from ..text.sections import Encoded
from ..training.checkpoint import Afresh, Position, begun, load_checkpoint, save_checkpoint
from ..training.optimiser import make_optimizer, schedule
from ..training.prepare import backbone_of
from ..training.progress import Progress, Stop, Stopped
from .items import Item, seed_of
from .judge import correct
from .judging import PROBE, Judge, parsed
from .sampling import Sampled
from .template import hint
from .votes import Trajectory

TRAJECTORIES = 3  # a prompt: the paper's N_RFT


@dataclass
class Policy:
    """The language model that judges and learns to, and how a training of it fits into memory."""

    model: RewardModel
    device: torch.device
    memory: Memory | None  # of a GPU


def policy_of(config: ResolvedConfig, base: Base, device: torch.device, longest: int) -> Policy:
    """The base model with adapters where the tuning has some, for texts of up to `longest` tokens. Raises Refused."""
    free, memory = free_bytes(device), None
    if free is not None:
        memory = fit(sizes(base.config, config), config, free, longest)
        config = memory.applied(config)
    backbone = backbone_of(config, base, device)
    torch.manual_seed(config.seed)  # adapters begin at random
    model = RewardModel(backbone, architecture="causal", kind="ordinal", digit_ids=())  # no head: it writes
    if config.dropout is not None:
        set_dropout(model.backbone, config.dropout)
    if config.gradient_checkpointing:
        model.checkpoint_gradients()
    if config.tuning in ADAPTED:
        model.add_lora(config, None if base.adapters is None else load_adapters(base))
    return Policy(model.to(device), device, memory)


@dataclass(frozen=True)
class Drawn:
    """A trajectory of a training item, and what is learnt from it: the prompt and, as the response, its text.

    None for one that failed. A hinted one's prompt is without the hint, since that is what the judge will be asked.
    """

    trajectory: Trajectory
    encoded: Encoded | None

    @property
    def right(self) -> bool:
        return self.trajectory.correct is not None and self.trajectory.correct > 0


@dataclass
class RftReport:
    """counts: of items (prompts, too_easy, all_wrong) and of trajectories (drawn, kept, wrong, hinted, unparsed)."""

    trajectories: list[Trajectory]
    losses: list[float]
    counts: dict[str, int]


def rft(
    items: Sequence[Item],
    judge: Judge,
    policy: Policy,
    config: ResolvedConfig,
    folder: Path,
    *,
    stop: Stop,
    progress: Progress,
) -> RftReport:
    """Draw, keep and learn. `folder` has all of it, so the same call goes on where one was stopped.

    Of an item's three trajectories the right ones are kept, unless all are right ("too easy"). Where all are wrong, one
    more is drawn with the answer as a hint, and kept if it is right (`hinted`). Raises Refused where the base model
    doesn't know the form.
    """
    samples = range(TRAJECTORIES)
    drawn = draw(
        [(item, n) for item in items for n in samples], judge, config, folder / "drawn.jsonl", progress
    )
    groups = [drawn[start : start + TRAJECTORIES] for start in range(0, len(drawn), TRAJECTORIES)]
    failed = [item for item, group in zip(items, groups, strict=True) if not any(one.right for one in group)]
    again = [
        (item, TRAJECTORIES) for item in failed if item.target is not None and item.target.best is not None
    ]
    hinted = draw(again, judge, config, folder / "hinted.jsonl", progress, hinted=True)
    easy = sum(all(one.right for one in group) for group in groups)
    told: list[Trajectory] = []
    taught: list[Encoded] = []
    for group in (*groups, *([one] for one in hinted)):
        too_easy = len(group) > 1 and all(one.right for one in group)
        for one in group:
            kept = one.right and one.encoded is not None and not too_easy
            told.append(
                replace(one.trajectory, outcome="too_easy" if too_easy else "kept" if kept else "wrong")
            )
            if kept and one.encoded is not None:
                taught.append(one.encoded)
    counts = {
        "prompts": len(items),
        "drawn": len(told),
        "kept": len(taught),
        "wrong": sum(one.outcome == "wrong" for one in told),
        "too_easy": easy,
        "all_wrong": len(failed),
        "hinted": sum(one.hinted and one.outcome == "kept" for one in told),
        "unparsed": sum(one.parsed.scores is None for one in told),
    }
    words = ", ".join(f"{key.replace('_', ' ')} {number:,}" for key, number in counts.items())
    progress.say("fine-tuning", message=words, **counts)
    losses = learn(taught, policy, config, folder, stop=stop, progress=progress) if taught else []
    return RftReport(told, losses, counts)


def draw(
    wanted: Sequence[tuple[Item, int]],
    judge: Judge,
    config: ResolvedConfig,
    path: Path,
    progress: Progress,
    *,
    hinted: bool = False,
) -> list[Drawn]:
    """A trajectory at temperature 1 of each (item, sample), in an order of responses drawn for each. Raises Refused."""
    asked = [item.drawn(config.seed, sample) for item, sample in wanted]
    chats = []
    for item, (_, sample) in zip(asked, wanted, strict=True):
        best = item.target.best if hinted and item.target is not None else None
        told = judge.template.told(item.rows, "" if best is None else hint(best))
        chats.append(told.chat(seed_of(config.seed, "rft", item.prompt_id, *sorted(item.ids), sample)))

    def say(done: int, total: int) -> None:
        progress.say("sampling", done, total, samples_per_second=judge.samples_per_second)

    probe = [] if hinted else judge.answered(chats[:PROBE], path.with_suffix(".first.jsonl"), temperature=1.0)
    if len(probe) == PROBE:
        read = [parsed(answer, len(item.rows)) for item, answer in zip(asked, probe, strict=False)]
        if all(one.scores is None for one in read):
            raise unreadable(config, PROBE, read[0].reason)
    answers = probe + judge.answered(chats[len(probe) :], path, say, temperature=1.0)
    found = []
    for (_, sample), item, answer in zip(wanted, asked, answers, strict=True):
        said = parsed(answer, len(item.rows))
        assert item.target is not None
        trajectory = Trajectory(
            stage="rft",
            prompt_id=item.prompt_id,
            group=item.group,
            responses=item.ids,
            sample=sample,
            text="",
            parsed=said,
            split="train",
            correct=correct(said.scores, item.target, config.scale),
            hinted=hinted,
        )
        encoded = None
        if isinstance(answer, Sampled):
            trajectory = replace(
                trajectory, text=answer.text, tokens_in=answer.tokens_in, tokens_out=answer.tokens_out
            )
            encoded = judge.template.completed(judge.template.ids(item.rows), answer.text)
        found.append(Drawn(trajectory, encoded))
    return found


def unreadable(config: ResolvedConfig, count: int, reason: str) -> Refused:
    """The refusal of a base model that doesn't answer in the form."""
    return Refused(
        f"none of the first {count} samples could be read ({reason}): base model {config.base_model!r} doesn't know "
        "the form, and nothing can be learnt from it; choose a model that follows instructions (an instruct or chat "
        "model), or another method"
    )


def learn(
    rows: Sequence[Encoded],
    policy: Policy,
    config: ResolvedConfig,
    folder: Path,
    *,
    stop: Stop,
    progress: Progress,
) -> list[float]:
    """Fine-tune on the rows' completions; returns each step's loss, in nats a token.

    The model then holds the weights after the last step, which `folder` keeps: another call loads them. Raises Stopped
    with a checkpoint in `folder`, from which the same call goes on with the same result.
    """
    model, held = policy.model, None
    if not config.token_budget:  # a run that goes on keeps its steps, whatever memory is free now
        config = replace(config, token_budget=begun(folder).get("token_budget", 0))
    if policy.memory is not None:
        config, held = policy.memory.applied(config), policy.memory.tokens
    config = config.with_budget(sum(map(len, rows)), held)
    if config.learning_rate == default_rate("causal", config.tuning, model.hidden_size, 0):
        config = config.with_rate(
            model.hidden_size
        )  # nobody asked for another: it follows the size of the steps
    encoder = ResponseEncoder(
        model,
        policy.device,
        config.micro_batch_tokens,
        longest=max(map(len, rows)),
        kept_tokens=config.kept_tokens if held is None else held,
    )
    optimizer = make_optimizer(model, config)
    rates = [group["lr"] for group in optimizer.param_groups]
    steps = [step for epoch in range(config.epochs) for step in epoch_of(rows, config, epoch)]
    mean = config.epochs * sum(row.stop - row.start for row in rows) / len(steps)  # tokens of a step
    try:
        position = load_checkpoint(folder, model, optimizer, config) or Position()
    except Afresh as reason:
        progress.say("fine-tuning", message=f"started afresh from step 0: {reason}")
        position = Position()
    saved_at, saving = time.monotonic(), 0.0
    model.train()
    for step in steps[position.step :]:
        for group, base in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = base * schedule(position.step, len(steps), config.warmup)
        torch.manual_seed(config.seed * 1_000_003 + position.step)
        members = [rows[number] for number in step]
        _, log_pi = encoder(members, log_probs=True)
        assert log_pi is not None
        loss = -log_pi.sum()
        (loss / mean).backward()
        clip_gradients(model.parameters(), config.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        position.losses.append(loss.item() / sum(row.stop - row.start for row in members))
        position.step += 1
        position.tokens += sum(map(len, members))
        progress.say("fine-tuning", position.step, len(steps), loss=round(position.losses[-1], 6))
        stopping = stop.wanted
        if stopping or time.monotonic() - saved_at >= max(config.checkpoint_seconds, 9 * saving):
            began = time.monotonic()
            save_checkpoint(folder, model, optimizer, position, config)
            saved_at = time.monotonic()
            saving = saved_at - began  # at most a tenth of the time is spent so
        if stopping:
            raise Stopped
    save_checkpoint(folder, model, optimizer, position, config)
    model.eval()
    return position.losses


def epoch_of(rows: Sequence[Encoded], config: ResolvedConfig, epoch: int) -> list[list[int]]:
    """Places of the rows in an order drawn for this epoch, in steps of up to token_budget tokens."""
    order = list(range(len(rows)))
    random.Random(f"{config.seed}/{epoch}").shuffle(order)
    steps: list[list[int]] = []
    used = 0
    for number in order:
        if steps and used + len(rows[number]) <= config.token_budget:
            steps[-1].append(number)
            used += len(rows[number])
        else:
            steps.append([number])
            used = len(rows[number])
    return steps
