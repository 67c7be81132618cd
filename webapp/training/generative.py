"""What a run's page shows of a model that writes its judgement: counts of its stages, curves, speed, tokens, cost.

From metrics.json once it has ended, from the newest progress lines while it runs.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from webapp.corpus.endpoints import endpoint_named
from webapp.corpus.options import GENERATIVE
from webapp.training.models import TrainingRun

STAGES = {"rft": "Fine-tuning (RFT)", "grpo": "Reinforcement (GRPO)", "meta": "Meta model", "score": "Votes"}
COUNTS = {
    "prompts": "Prompts",
    "drawn": "Drawn",
    "kept": "Kept",
    "wrong": "Wrong",
    "too_easy": "Too easy",
    "all_wrong": "All wrong",
    "hinted": "Hinted",
    "unparsed": "Unreadable",
    "cross_prompt_left_out": "Left out",
    "trajectories": "Judgements",
    "responses_without_votes": "Without a vote",
    "accuracy": "Accuracy",
    "always_right": "Of always saying right",
    "measured": "Measured on",
}
MOST_COUNTS = 20
FIGURES = (
    "samples_per_second", "tokens_in", "tokens_out", "requests", "retries", "unparsed_share", "reward", "kl",
)  # fmt: skip


@dataclass(frozen=True)
class Written:
    """Figures are None where nothing told them. `stages`: of each its name, and its counts in words."""

    stages: list[tuple[str, list[tuple[str, str]]]]
    samples: int
    samples_per_second: float | None
    tokens_in: float | None
    tokens_out: float | None
    token_limit: int | None
    endpoint_model: str
    requests: float | None
    retries: float | None
    cost: str
    cost_limit: float | None
    currency: str
    unparsed_share: float | None
    order_pairs: float | None
    order_decided: float | None
    reward: float | None
    kl: float | None
    # (step, value) of all steps
    losses: list[tuple[int, float]]
    rewards: list[tuple[int, float]]
    kls: list[tuple[int, float]]


def written(run: TrainingRun) -> Written | None:
    """Of a run of grm or judge; None for the other methods."""
    if run.method not in GENERATIVE:
        return None
    found = _object(run.metrics.get("generative"))
    told = {**run.live, **found}
    learning = {name: run.live[name] for name in COUNTS if name in run.live}
    stages = _object(found.get("stages")) or ({"rft": learning} if learning else {})
    order = _object(found.get("order"))
    steps = _objects(_object(found.get("grpo")).get("steps"))
    endpoint = endpoint_named(run.config.get("base_model"))
    currency = found.get("currency") or (endpoint.currency if endpoint is not None else "")
    model = found.get("endpoint_model") or (endpoint.model if endpoint is not None else "")
    return Written(
        stages=[
            (STAGES.get(stage, stage), counts)
            for stage, told_of in stages.items()
            if (counts := _counts(_object(told_of)))
        ],
        samples=run.config.get("samples") or round(_number(found.get("samples")) or 8),
        **{name: _number(told.get(name)) for name in FIGURES},
        cost=_cost(_number(told.get("cost"))),
        endpoint_model=str(model) if model else "",
        token_limit=run.config.get("token_limit"),
        cost_limit=run.config.get("cost_limit"),
        currency=currency if isinstance(currency, str) else "",
        order_pairs=_number(order.get("pairs")),
        order_decided=_number(order.get("decided")),
        losses=_points(enumerate(_list(_object(found.get("rft")).get("losses")), start=1)),
        rewards=_points((step.get("step"), step.get("reward")) for step in steps),
        kls=_points((step.get("step"), step.get("kl")) for step in steps),
    )


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in _list(value) if isinstance(item, dict)]


def _number(value: Any) -> float | None:
    """A finite number, or the one under "value"; None for anything else."""
    if isinstance(value, dict):
        value = value.get("value")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return value


def _counts(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A stage's numbers: those with a word of ours first, then what else the trainer counts."""
    names = sorted(told, key=lambda name: ([*COUNTS, name].index(name), name))[:MOST_COUNTS]
    numbers = [(name, _number(told[name])) for name in names]
    return [
        (COUNTS.get(name, name.replace("_", " ").capitalize()), _shown(number))
        for name, number in numbers
        if number is not None
    ]


def _cost(number: float | None) -> str:
    """Small sums to the hundredth of a cent."""
    return "" if number is None else f"{number:,.2f}" if number >= 1 else f"{number:.4f}"


def _shown(number: float) -> str:
    return f"{number:,.0f}" if number == round(number) else f"{number:.3f}"


def _points(pairs: Iterable[tuple[Any, Any]]) -> list[tuple[int, float]]:
    numbers = [(_number(step), _number(value)) for step, value in pairs]
    return [(int(step), value) for step, value in numbers if step is not None and value is not None]
