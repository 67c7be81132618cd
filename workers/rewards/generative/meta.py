"""Which trajectories to trust: a scalar `clf` on (prompt, responses, trajectory), label = right (arXiv 2504.02495).

The paper trains a whole model for it. Ours is a head of one hidden layer on the judge's own last state, so no second
copy of the weights is trained or held.
"""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open

from ..config import ResolvedConfig
from ..files import save_tensors
from ..models.embeddings import embed
from ..models.encode import MICRO_BATCH_TOKENS, ResponseEncoder
from ..models.reward_model import RewardModel
from ..training.progress import Progress, Stop
from .finetune import TRAJECTORIES, Policy, draw
from .items import Item
from .judging import Judge
from .template import JudgeTemplate
from .votes import Trajectory

NAME = "meta.safetensors"
WIDTH = 256  # of the hidden layer, as a frozen encoder's
EPOCHS, RATE, DECAY = 200, 1e-3, 0.01  # over all trajectories at once
KEPT = 0.2  # share of the prompts that the report is about


@dataclass
class Meta:
    """The head on a judge's states; `report`: how well it tells right from wrong on prompts it didn't learn from."""

    model: RewardModel  # the judge's backbone, and the head
    template: JudgeTemplate
    report: dict[str, Any]

    @classmethod
    def over(cls, judge: RewardModel, template: JudgeTemplate, seed: int) -> Meta:
        """An untrained one."""
        torch.manual_seed(seed)
        model = RewardModel(judge.backbone, architecture="causal", kind="scalar", head_hidden=WIDTH)
        model.to(next(judge.backbone.parameters()).device)
        return cls(model, template, {})

    @classmethod
    def load(cls, folder: Path, judge: RewardModel, template: JudgeTemplate) -> Meta:
        """What `save` wrote. Raises OSError and SafetensorError."""
        meta = cls.over(judge, template, 0)
        assert meta.model.head is not None
        with safe_open(folder / NAME, "pt") as file:
            meta.model.head.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
            meta.report = json.loads(file.metadata()["caliper"])
        meta.model.eval()
        return meta

    def save(self, folder: Path) -> None:
        assert self.model.head is not None
        save_tensors(folder / NAME, self.model.head.state_dict(), {"caliper": json.dumps(self.report)})

    @torch.no_grad()
    def features(
        self,
        trajectories: Sequence[Trajectory],
        responses: Mapping[str, Mapping[str, Any]],
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> torch.Tensor:
        """The judge's state after the last token of each trajectory; `responses` by id. [N, H]"""
        rows = []
        for one in trajectories:
            shown = [dict(responses[name]) for name in one.responses]
            rows.append(self.template.completed(self.template.ids(shown), one.text))
        device = next(self.model.backbone.parameters()).device
        encoder = ResponseEncoder(
            self.model, device, MICRO_BATCH_TOKENS[device.type], longest=max(map(len, rows))
        )
        return embed(encoder, rows, progress)

    @torch.no_grad()
    def valued(
        self, trajectories: Sequence[Trajectory], responses: Mapping[str, Mapping[str, Any]]
    ) -> list[Trajectory]:
        """The trajectories with log odds of being right; one that can't be read has none."""
        told = [one for one in trajectories if one.parsed.scores is not None]
        if not told:
            return list(trajectories)
        values = iter(self.model.score(self.features(told, responses)).tolist())
        return [
            one if one.parsed.scores is None else dataclasses.replace(one, meta=next(values))
            for one in trajectories
        ]


def train_meta(
    items: Sequence[Item],
    judge: Judge,
    policy: Policy,
    config: ResolvedConfig,
    folder: Path,
    *,
    stop: Stop,
    progress: Progress,
) -> Meta | None:
    """Learn from fresh trajectories of the training items, three each. None where all are right or all wrong, and where
    it is no better than a constant on a fifth of the prompts, which it didn't learn from: it would choose at random.

    `folder` has what was drawn, so the same call goes on where one was stopped.
    """
    wanted = [(item, sample) for item in items for sample in range(TRAJECTORIES)]
    drawn = [one.trajectory for one in draw(wanted, judge, config, folder / "drawn.jsonl", progress)]
    told = [one for one in drawn if one.parsed.scores is not None]  # what can't be read never votes
    prompts = sorted({one.prompt_id for one in told})
    kept = set(
        random.Random(config.seed).sample(prompts, max(1, round(KEPT * len(prompts)))) if prompts else ()
    )
    right = torch.tensor([one.correct is not None and one.correct > 0 for one in told], dtype=torch.float32)
    learns = torch.tensor([one.prompt_id not in kept for one in told], dtype=torch.bool)
    if len(set(right[learns].tolist())) < 2:
        progress.say("meta", message="no meta model: all trajectories are right, or all are wrong")
        return None

    def say(done: int, total: int) -> None:
        stop.check()
        progress.say("meta", done, total)

    meta = Meta.over(policy.model, judge.template, config.seed)
    head = meta.model.head
    assert head is not None
    responses = {row["response_id"]: row for item in items for row in item.rows}
    features = meta.features(told, responses, say)  # [N, H]
    right, learns = right.to(features.device), learns.to(features.device)
    optimizer = torch.optim.AdamW(head.parameters(), lr=RATE, weight_decay=DECAY)
    head.train()
    for _ in range(EPOCHS):
        scores = meta.model.score(features[learns])
        F.binary_cross_entropy_with_logits(scores, right[learns]).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    meta.model.eval()
    with torch.no_grad():
        said = meta.model.score(features[~learns]) > 0
    truth = right[~learns] > 0
    share, accuracy = float(truth.float().mean()), float((said == truth).float().mean())
    meta.report = {
        "trajectories": len(told),
        "right": round(float(right.mean()), 4),
        "measured": len(truth),
        "accuracy": round(accuracy, 4),
        "always_right": round(share, 4),  # the accuracy of a constant
    }
    if accuracy <= max(share, 1 - share):
        progress.say(
            "meta",
            message=f"no meta model: on {len(truth)} trajectories of other prompts it tells right from wrong in "
            f"{accuracy:.0%}, a constant in {max(share, 1 - share):.0%}; all votes count",
        )
        return None
    return meta
