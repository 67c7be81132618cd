"""Asking a judge for its votes: for a run's last stage, for a saved model, and for every way to measure one."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch.nn as nn

from ..config import Refused, RunConfig
from ..data.messages import whole_prompt
from ..data.snapshot import Snapshot
from ..data.split import NOTHING, Split
from ..evaluation.attacks import ATTACKS, DEGENERATE
from ..evaluation.metrics import Row
from ..evaluation.robustness import MAX_RESPONSES, Scored, Scorer, measure
from ..files import write_text
from ..models.base_models import Source
from ..models.distributed import default_device
from ..training.progress import Stop
from .items import Item, scoring_items
from .items import seed_of as drawn_seed
from .journal import drawn
from .judge import Parsed, correct, parse, vote_distribution
from .sampling import Chat, Failed, Sampled, Sampler, TransformersSampler, Usage, VLLMSampler, has_vllm
from .template import JudgeTemplate
from .votes import PRIOR_MEAN, Trajectory, Votes, counting

PART = 512  # chats whose texts are held at once
PROBE = 48  # answers of which at least one must be readable; before more are asked for, and paid
# The robustness suite asks a chat for each change of each response it attacks, and at most this share of the scoring's.
ATTACKED_CHATS = 1 + sum(attack.draws for attack in ATTACKS) + len(DEGENERATE)
ROBUSTNESS_SHARE = 0.5

Say = Callable[[int, int], None]


def nothing(done: int, total: int) -> None:
    """Progress that nobody wants."""


class Valuer(Protocol):
    """What says how much trajectories are worth: a meta model (meta.py)."""

    def valued(
        self, trajectories: Sequence[Trajectory], responses: Mapping[str, Mapping[str, Any]]
    ) -> list[Trajectory]: ...


@dataclass
class Judge:
    """Whoever votes: what it is shown, who samples, and how often it is asked.

    `meta` says what a trajectory is worth (meta.py). `usage_file` keeps what an endpoint has used across goes.
    """

    config: RunConfig
    template: JudgeTemplate
    sampler: Sampler
    stop: Stop = field(default_factory=Stop)
    meta: Valuer | None = None
    usage_file: Path | None = None
    truncated: set[str] = field(default_factory=set)
    answers: int = 0  # of this go, in so many seconds
    seconds: float = 0.0

    def voted(
        self,
        snapshot: Snapshot,
        split: Split = NOTHING,
        folder: Path | None = None,
        say: Say = nothing,
    ) -> tuple[list[Trajectory], Votes]:
        """The trajectories in which each response of a snapshot stands once a sample, in an order drawn for each, and
        what those that count say. `truncated` then has the responses of which a text was cut.

        `folder` keeps the answers as they come: a call that was killed goes on and asks for nothing twice. Raises
        Stopped, and with an endpoint BudgetSpent and EndpointRefused.
        """
        config = self.config
        asked = [
            (sample, item)
            for sample, items in enumerate(scoring_items(snapshot, split, config))
            for item in items
        ]
        asked.sort(key=lambda one: one[1].prompt_id)  # alike texts together
        found: list[Trajectory] = []
        for begin, end in itertools.pairwise(
            [0, *range(min(PROBE, len(asked)), len(asked), PART), len(asked)]
        ):
            part = asked[begin:end]
            told = [self.template.told(item.rows) for _, item in part]
            chats = [
                one.chat(seed_of("score", sample, config.seed, item))
                for one, (sample, item) in zip(told, part, strict=True)
            ]
            for one, (_, item) in zip(told, part, strict=True):
                self.truncated.update(item.ids if one.truncated else ())
            path = None if folder is None else folder / f"{begin}.jsonl"
            answers = self.answered(chats, path, lambda done, _, begin=begin: say(begin + done, len(asked)))  # type: ignore[misc]
            found += [
                self._read(sample, item, answer) for (sample, item), answer in zip(part, answers, strict=True)
            ]
            if len(found) == PROBE and all(one.parsed.scores is None for one in found):
                raise Refused(
                    f"none of the first {PROBE} answers could be read ({cause(found[0].parsed.reason)}): "
                    f"{config.base_model} doesn't keep to the form; choose a model that follows instructions (an "
                    "instruct or chat model), or raise max_new_tokens"
                )
        if self.meta is not None:
            found = self.meta.valued(found, {row["response_id"]: row for row in snapshot.responses})
        found = counting(found)
        return found, Votes.of(found)

    def predictions(self, responses: Sequence[Row]) -> list[dict[str, Any]]:
        """Rows as of predictions.parquet for rows of `response_id`, `messages`, `tools` and `text`; those of one prompt
        are judged together."""
        rows = []
        for row in responses:
            prompt = whole_prompt(row["messages"], row.get("tools") or [])
            rows.append({"answer": None, **row, "prompt_id": prompt, "group": prompt})
        return self.voted(Snapshot(rows, [], []))[1].predictions(rows)

    def answered(
        self,
        chats: Sequence[Chat],
        path: Path | None,
        say: Say = nothing,
        *,
        temperature: float | None = None,
    ) -> list[Sampled | Failed]:
        """An answer to each chat; the file keeps them. Those that it had before are no work of this go."""
        began = written = time.monotonic()
        spent, before = self.seconds, self.answers
        options: dict[str, Any] = {
            "temperature": self.config.sampling_temperature if temperature is None else temperature,
            "max_new_tokens": self.config.max_new_tokens,
        }

        def told(number: int, total: int) -> None:
            nonlocal written
            now = time.monotonic()
            self.answers, self.seconds = self.answers + 1, spent + now - began
            if now - written > 1:
                self._keep_usage()
                written = now
            self.stop.check()
            say(number, total)

        try:
            if path is not None:
                return drawn(chats, self.sampler, path, stop=self.stop, progress=told, **options)

            def one_more(place: int, answer: Sampled | Failed) -> None:
                told(self.answers - before + 1, len(chats))

            return self.sampler.sample(chats, progress=one_more, **options)
        finally:
            self.seconds = spent + time.monotonic() - began
            self._keep_usage()

    @property
    def samples_per_second(self) -> float | None:
        return round(self.answers / self.seconds, 3) if self.seconds and self.answers else None

    def robustness(
        self,
        on: Snapshot,
        scores: Mapping[str, float],
        asked: int,
        path: Path | None = None,
        say: Say = nothing,
    ) -> dict[str, Any] | None:
        """The "robustness" object of metrics.json; None where `asked`, the scoring's chats, pay for too few responses.

        A response is judged beside its partner as it was compared, or alone; the attacked one in the other's place. One
        text each, the likeliest (temperature 0): of several samples the noise would be taken for the attack's effect.
        """
        config, beside = self.config, partners(on)
        most = min(MAX_RESPONSES, int(asked * ROBUSTNESS_SHARE) // ATTACKED_CHATS)
        if most < 2 or len(on.responses) < 2:
            return None

        def score(rows: Sequence[Row]) -> Scored:
            items = [
                shown(_beside(row, beside.get(row["response_id"])), f"robustness/{config.seed}")
                for row in rows
            ]
            chats = [
                self.template.told(item.rows).chat(seed_of("robustness", 0, config.seed, item))
                for item in items
            ]
            ratings: list[int | None] = []
            answers = self.answered(chats, path, say, temperature=0.0)
            for row, item, answer in zip(rows, items, answers, strict=True):
                place = item.ids.index(row["response_id"])
                said = parsed(answer, len(item.rows)).scores
                ratings.append(None if said is None else said[place])
            told = [round(PRIOR_MEAN) if rating is None else rating for rating in ratings]
            return Scored(
                np.array(told, dtype=np.float64), np.array([vote_distribution([rating]) for rating in told])
            )

        return measure(
            Scorer(score),
            responses=on.responses,
            judgements=on.judgements,
            scores=scores,
            kind="ordinal",
            partition=config.partition,
            tie=None,
            temperature=1.0,
            seed=config.seed,
            most=most,
            remedy="say in the project's guidelines what such texts are worth, or choose a stronger model",
        )

    def _read(self, sample: int, item: Item, answer: Sampled | Failed) -> Trajectory:
        read = parsed(answer, len(item.rows))
        sampled = answer if isinstance(answer, Sampled) else Sampled("", 0, 0, True)
        return Trajectory(
            stage="score",
            prompt_id=item.prompt_id,
            group=item.group,
            responses=item.ids,
            sample=sample,
            text=sampled.text,
            parsed=read,
            split=item.split,
            correct=None if item.target is None else correct(read.scores, item.target, self.config.scale),
            tokens_in=sampled.tokens_in,
            tokens_out=sampled.tokens_out,
        )

    def _keep_usage(self) -> None:
        if self.usage_file is not None:
            write_text(self.usage_file, json.dumps(dataclasses.asdict(self.sampler.usage)))


def sampler_of(
    weights: Callable[[], nn.Module],
    source: Source,
    template: JudgeTemplate,
    config: RunConfig,
    stop: Stop,
) -> Sampler:
    """What samples from weights that don't learn, at `source`: vLLM where it is installed, else these, loaded."""
    device = default_device()
    ends = template.stop_ids
    if has_vllm(device):
        length = template.max_length + config.max_new_tokens
        vllm: dict[str, Any] = {"max_length": length, "revision": source.revision, "stop_ids": ends}
        return VLLMSampler(source.path, template.tokenizer, **vllm)
    model = weights().to(device).eval()
    return TransformersSampler(model, template.tokenizer, device, stop_ids=ends, check=stop.check)


def used(path: Path) -> Usage | None:
    """What earlier goes have used of an endpoint; None before there was one."""
    return Usage(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


def parsed(answer: Sampled | Failed, count: int) -> Parsed:
    """What an answer says of this many responses; of one that failed, why."""
    return (
        Parsed(None, answer.reason)
        if isinstance(answer, Failed)
        else parse(answer.text, count, answer.finished)
    )


def cause(reason: str) -> str:
    """Why an answer could not be read, without what would help."""
    return reason.partition(";")[0]


def shown(item: Item, words: str) -> Item:
    """The item with its responses, and what people said of them, in an order drawn by these words and their ids."""
    draw = random.Random(f"{words}/{sorted(item.ids)}")
    return item.shown(draw.sample(range(len(item.rows)), len(item.rows)))


def seed_of(stage: str, sample: int, seed: int, item: Item) -> int:
    """The seed of one answer, which depends on nothing else that is asked."""
    return drawn_seed(stage, sample, seed, *sorted(item.ids))


def partners(snapshot: Snapshot) -> dict[str, Row]:
    """For each response one of the same prompt: one that it was compared with, else any other."""
    of_prompt: dict[str, list[Row]] = {}
    for row in snapshot.responses:
        of_prompt.setdefault(row["prompt_id"], []).append(row)
    found = {
        row["response_id"]: own[number - 1]
        for own in of_prompt.values()
        if len(own) > 1
        for number, row in enumerate(own)
    }
    index = {row["response_id"]: row for row in snapshot.responses}
    for judgement in snapshot.judgements:
        a, b = index[judgement["response_a"]], index[judgement["response_b"]]
        if a["prompt_id"] == b["prompt_id"]:
            found |= {a["response_id"]: b, b["response_id"]: a}
    return found


def _beside(row: Row, partner: Row | None) -> Item:
    rows = (dict(row),) if partner is None else (dict(row), dict(partner))
    return Item(row["prompt_id"], row["group"], rows, None, "unlabelled")
