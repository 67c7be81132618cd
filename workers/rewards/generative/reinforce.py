"""Rule-based reinforcement learning (arXiv 2504.02495): GRPO by TRL, with the people's verdicts as the rule.

TRL has the algorithm: advantages within a group, the clipped ratio, the KL term. What is sampled is ours, so that a
prompt is exactly the template's ids and a run that goes on draws what it would have drawn.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import random
import shutil
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import TrainerCallback

from ..config import ADAPTED, Refused, ResolvedConfig
from ..files import save_tensors, write_text
from ..models.sharding import learned
from ..training.progress import Progress, Stop, Stopped
from .finetune import Policy, unreadable
from .items import Item, seed_of
from .judge import correct
from .judging import PROBE, Judge, parsed
from .sampling import Sampled

PROMPTS = 8  # a step; the paper has 128
MOST_STEPS = 900  # the paper's
FALL = 0.5  # of the two between wrong and right; a step's mean of 32 rewards moves by some .25 of itself
FINISHED, WHOLE = "finished.safetensors", "whole"


@dataclass
class GrpoReport:
    """What the steps did: {"step", "reward", "kl", "loss"} each. `note`: why their weights were not kept."""

    steps: list[dict[str, float]]
    note: str = ""


def refuse_trl() -> None:
    """Raises Refused where TRL is missing."""
    if importlib.util.find_spec("trl") is None:
        raise Refused(
            "stage grpo needs TRL, which is not installed: pip install 'caliper[generative]' (or pip install "
            "'trl>=1.16,<2'), or leave grpo out of stages"
        )


def grpo(
    items: Sequence[Item],
    judge: Judge,
    policy: Policy,
    config: ResolvedConfig,
    folder: Path,
    *,
    stop: Stop,
    progress: Progress,
) -> GrpoReport:
    """Reinforce the policy on the items; the model then holds the new weights, which `folder` keeps.

    Where the reward fell far, the model keeps the weights that it came with, and the report says so. The reference of
    the KL term is the policy as it came. Raises Refused without TRL or where no completion can be parsed, and Stopped
    with a checkpoint in `folder`, from which the same call goes on with the same result.
    """
    refuse_trl()
    model = policy.model
    if (report := _finished(folder, policy)) is not None:
        return report
    folder.mkdir(parents=True, exist_ok=True)
    came = {name: value.detach().to("cpu", copy=True) for name, value in learned(model)}
    with _quiet():
        trainer = _trainer(items, judge, policy, config, folder, stop, progress)
        try:
            trainer.train(resume_from_checkpoint=_last_whole(folder))
        except Stopped:
            # told while the next step's completions were drawn: the last step's weights are as it left them
            if (step := trainer.state.global_step) and not (whole := _whole(folder, step)).exists():
                trainer._save_checkpoint(trainer.model, trial=None)
                write_text(whole, "")
            raise
        finally:
            _unwrapped(trainer, model)
    if trainer.state.global_step < trainer.state.max_steps:
        raise Stopped
    steps = [
        {
            "step": line["step"],
            **{key: line[key] for key in ("reward", "kl", "loss") if line.get(key) is not None},
        }
        for line in trainer.state.log_history
        if "reward" in line
    ]
    model.eval()
    report = GrpoReport(steps, fallen(steps))
    if report.note:
        progress.say("reinforcing", len(steps), len(steps), message=report.note)
        with torch.no_grad():
            for name, parameter in learned(model):
                parameter.copy_(came[name])
    tensors: dict[str, torch.Tensor] = dict(learned(model))
    save_tensors(folder / FINISHED, tensors, {"caliper": json.dumps(asdict(report))})
    for left in (*folder.glob("checkpoint-*"), folder / "reference"):
        shutil.rmtree(left, ignore_errors=True)
    return report


def fallen(steps: Sequence[dict[str, float]]) -> str:
    """Why the weights of these steps are not worth keeping; empty where the reward did not fall by FALL or more.

    Too high a rate drives a model out of the form for good: then every reward is -1, and no group has an advantage.
    """
    part = max(1, len(steps) // 4)
    rewards = [step["reward"] for step in steps]
    first, last = (sum(some) / len(some) for some in (rewards[:part], rewards[-part:]))
    if last >= first - FALL:
        return ""
    return (
        f"GRPO's weights were not kept: the mean reward fell from {first:.2f} to {last:.2f}. Set a lower "
        "grpo_learning_rate, or a higher kl."
    )


class _Rollouts:
    """What a step's completions are drawn by, and what each earned; TRL's rollout_func and reward function."""

    def __init__(
        self,
        items: Sequence[Item],
        judge: Judge,
        config: ResolvedConfig,
        steps: int,
        prompts: int,
    ) -> None:
        self.items, self.judge, self.config = items, judge, config
        # one pass after another, each in an order of its own
        order: list[int] = []
        draw = random.Random(f"grpo/{config.seed}")
        while len(order) < steps * prompts:
            order += draw.sample(range(len(items)), len(items))
        self.order = order[: steps * prompts]
        self.read = self.drawn = 0

    def __call__(self, prompts: Sequence[str], trainer: Any) -> dict[str, Any]:
        """Completions of prompts, which are places of `order`; a group is a prompt that stands there several times.

        What is drawn follows from the seed, the place and the number in the group, so a step that is done again after
        a stop is the same.
        """
        config = self.config
        asked, chats = [], []
        for number, place in enumerate(prompts):
            item = self.items[self.order[int(place)]].drawn(config.seed, int(place))
            seed = seed_of(config.seed, "grpo", int(place), number % config.group)
            asked.append(item)
            chats.append(self.judge.template.told(item.rows).chat(seed))
        answers = self.judge.answered(chats, None, temperature=1.0)
        read = [parsed(answer, len(item.rows)) for answer, item in zip(answers, asked, strict=True)]
        self.drawn += len(read)
        self.read += sum(one.scores is not None for one in read)
        if not self.read and self.drawn >= PROBE:
            raise unreadable(self.config, self.drawn, read[0].reason)
        end = self.judge.template.end_id
        completions = [(isinstance(answer, Sampled) and answer.ids) or (end,) for answer in answers]
        return {
            "prompt_ids": [list(chat.ids or ()) for chat in chats],
            "completion_ids": [list(ids) for ids in completions],
            "logprobs": None,  # drawn by the weights of now: the ratio is 1
            "scores": [one.scores for one in read],
            "target": [item.target for item in asked],
        }

    def rule(self, *, scores: Sequence[Any], target: Sequence[Any], **_: Any) -> list[float | None]:
        """The reward: how right the scores are, -1 for what can't be read. No reward for the form itself."""
        return [correct(given, said, self.config.scale) for given, said in zip(scores, target, strict=True)]


class _Watch(TrainerCallback):
    """Tells progress, and writes checkpoints: when due, and when the run should end."""

    def __init__(self, config: ResolvedConfig, stop: Stop, progress: Progress) -> None:
        self.config, self.stop, self.progress = config, stop, progress
        self.saved_at, self.saving = time.monotonic(), 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        pause = max(self.config.checkpoint_seconds, 9 * self.saving)
        stopping = self.stop.wanted
        control.should_training_stop |= stopping
        if stopping or time.monotonic() - self.saved_at >= pause:
            control.should_save = True
            self.began = time.monotonic()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        write_text(_whole(Path(args.output_dir), state.global_step), "")
        self.saved_at = time.monotonic()
        self.saving = self.saved_at - self.began

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if "reward" in logs:
            self.progress.say(
                "reinforcing",
                state.global_step,
                state.max_steps,
                loss=logs["loss"],
                reward=logs["reward"],
                kl=logs.get("kl"),
            )


def _trainer(
    items: Sequence[Item],
    judge: Judge,
    policy: Policy,
    config: ResolvedConfig,
    folder: Path,
    stop: Stop,
    progress: Progress,
) -> Any:
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import GRPOConfig, GRPOTrainer

    model, gpu = policy.model, policy.device.type == "cuda"
    prompts = min(PROMPTS, len(items))
    steps = config.grpo_steps or min(MOST_STEPS, -(-len(items) // prompts))
    rollouts = _Rollouts(items, judge, config, steps, prompts)
    network: Any = model.lora or model.backbone
    name = network.config._name_or_path
    if config.kl and config.tuning not in ADAPTED:
        # TRL reads the reference from the model's path; adapters are their own (a copy that doesn't learn)
        reference = folder / "reference"
        if not (reference / WHOLE).exists():
            network.save_pretrained(reference)
            write_text(reference / WHOLE, "")
        network.config._name_or_path = str(reference)
    arguments = GRPOConfig(
        output_dir=str(folder),
        loss_type="grpo",
        beta=config.kl,
        num_generations=config.group,
        temperature=1.0,
        max_completion_length=config.max_new_tokens,
        per_device_train_batch_size=config.group if gpu else config.group * prompts,
        gradient_accumulation_steps=prompts if gpu else 1,
        max_steps=steps,
        shuffle_dataset=False,  # the rollouts' order is drawn
        learning_rate=config.grpo_learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=math.ceil(config.warmup * steps),
        weight_decay=0.0,
        max_grad_norm=config.clip_norm,
        bf16=gpu,
        model_init_kwargs={"dtype": "bfloat16"} if gpu else None,  # of the reference alone
        use_cpu=not gpu,
        gradient_checkpointing=gpu
        if config.gradient_checkpointing is None
        else config.gradient_checkpointing,
        logging_steps=1,
        save_strategy="no",  # _Watch says when
        save_total_limit=2,
        seed=config.seed,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = GRPOTrainer(
        model=network,
        reward_funcs=rollouts.rule,
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": str(place)} for place in range(steps * prompts)]),
        processing_class=judge.template.tokenizer,
        callbacks=[_Watch(config, stop, progress)],
        rollout_func=rollouts,
    )
    network.config._name_or_path = name
    trainer.remove_callback(PrinterCallback)
    return trainer


def _unwrapped(trainer: Any, model: Any) -> None:
    """Take away what TRL and accelerate put over the network's forward, and TRL's copy of the adapters."""
    trainer.accelerator.free_memory()
    for network in filter(None, (model.backbone, model.lora)):
        for name in ("forward", "_original_forward"):
            network.__dict__.pop(name, None)
    if model.lora is not None and "ref" in model.lora.peft_config:
        model.lora.delete_adapter("ref")


def _finished(folder: Path, policy: Policy) -> GrpoReport | None:
    """The report of a training that ended, with its weights put on the model; None where none did."""
    path = folder / FINISHED
    if not path.exists():
        return None
    with safe_open(path, "pt") as file, torch.no_grad():
        for name, parameter in learned(policy.model):
            parameter.copy_(file.get_tensor(name))
        return GrpoReport(**json.loads(file.metadata()["caliper"]))


def _whole(folder: Path, step: int) -> Path:
    """The file that says that a checkpoint was written to its end."""
    return folder / f"checkpoint-{step}" / WHOLE


def _last_whole(folder: Path) -> str | None:
    """The last checkpoint that was written to its end."""
    whole = [path for path in folder.glob("checkpoint-*") if (path / WHOLE).exists()]
    return str(max(whole, key=lambda path: int(path.name.split("-")[1]))) if whole else None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without TRL's and transformers' advice on standard output: a run says what it does in progress.jsonl."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
