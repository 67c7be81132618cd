"""Everything that the loop needs, made once from a run folder: refuse, load, read, build, compute once.

The functions stand in the order in which they run. Cheap refusals come before anything expensive.
"""

from __future__ import annotations

import dataclasses
import gc
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from .. import objectives
from ..artifacts.adapters import ArtifactError, check_base, describe_base
from ..config import ADAPTED, Refused, ResolvedConfig, RunConfig
from ..data.judgements import TrainingData, check_labels, training_data
from ..data.snapshot import Snapshot, read_snapshot
from ..data.split import NOTHING, Split, held_out_rows, split_groups, split_watched
from ..models.base_models import check_vocabulary, find_base
from ..models.distributed import Group, refuse_flags
from ..models.embeddings import embed_cached
from ..models.encode import ResponseEncoder
from ..models.kinds import Base, look_at
from ..models.load import load_base, load_hollow, load_merged, load_quantised, load_tokenizer, unfitting
from ..models.lora import FOUR_BIT, check_quantising
from ..models.memory import USABLE, Memory, Sizes, fit, free_bytes, sizes
from ..models.reward_model import RewardModel, logit, longest_text, set_dropout
from ..models.sharding import gathered, learned, shard
from ..text.chat import template_of
from ..text.readable import readable, reads_alike, report
from ..text.sections import Encoded, Template
from .batches import Blocks, Draws, Step
from .checkpoint import begun
from .early_stopping import Watch
from .hardening import SETS, Copy, harden, joined
from .optimiser import make_optimizer, refuse_optimizer
from .progress import Progress, Stop, Stopped
from .reliability import Reliability
from .start import Start
from .step import StepLoss
from .tracking import refuse_tracker


@dataclass
class Labels:
    """What people said, and how it is divided."""

    snapshot: Snapshot
    learned: Snapshot  # without the judgements of pairs that read alike
    split: Split
    watched: Split  # for early stopping
    data: TrainingData  # the training side

    @property
    def kept(self) -> Split:
        """All groups that are not trained on."""
        return self.split.joined_with(self.watched)


@dataclass
class Texts:
    """Responses as token ids, those of hardening's copies behind the snapshot's."""

    template: Template
    rows: list[Encoded]
    count: int  # of the snapshot's responses
    reading: dict[str, Any]  # what could not be read (readable.py)

    @property
    def lengths(self) -> list[int]:
        return [len(row) for row in self.rows]


@dataclass
class Plan:
    """The steps of each epoch, from its number and the seed alone; hardening's copies join them."""

    steps: Blocks | Draws
    seed: int
    data: TrainingData
    copies: Sequence[Copy] = ()
    _last: tuple[int, list[Step]] | None = None

    def epoch(self, number: int) -> list[Step]:
        """An epoch's steps; the last one asked for is kept."""
        if self._last is None or self._last[0] != number:
            steps = self.steps.epoch(self.seed, number)
            if self.copies:
                steps = joined(steps, self.copies, self.data, number % SETS)
            self._last = number, steps
        return self._last[1]


@dataclass
class Run:
    """A run before its first step."""

    run_dir: Path
    config: ResolvedConfig
    team: Group
    stop: Stop
    progress: Progress
    base: Base
    start: Start
    labels: Labels
    texts: Texts
    plan: Plan
    model: RewardModel
    encoder: ResponseEncoder
    memory: Memory | None  # of a GPU
    features: torch.Tensor | None  # [N, H] of a frozen encoder
    reliability: Reliability | None
    loss: StepLoss
    optimizer: torch.optim.Optimizer
    watch: Watch | None
    watch_note: str | None  # why nothing is watched
    lies_over: dict[str, Any] | None  # what adapters lie over: reward_config.json's "base"

    def on_progress(self, phase: str) -> Callable[[int, int], None]:
        """A callback that tells progress of a phase, and raises Stopped when the run should end."""

        def said(done: int, total: int) -> None:
            self.stop.check()
            self.progress.say(phase, done, total)

        return said


def prepare(run_dir: Path, stop: Stop) -> Run | None:
    """The run, or None in a process that has no part in it. Raises Refused and Stopped."""
    # Refuse what can't work, by the configurations alone and then by the labels
    refuse_flags()
    asked = RunConfig.read(run_dir / "config.json")
    refuse_optimizer(asked.optimizer)
    refuse_tracker(asked.report_to)
    (run_dir / "error.json").unlink(missing_ok=True)
    base = base_of(asked, run_dir)
    asked = going_on(asked, base)
    labels = divide(read_snapshot(run_dir / "snapshot"), asked)
    team = Group.started()
    if asked.tuning == "frozen" and team.size > 1:
        if not team.first:
            return None  # heads on cached embeddings take seconds; one process has all of it
        team = Group(device=team.device)
    if asked.shard and team.size == 1:
        raise Refused(
            "config.json: shard is true, which divides the weights among several processes, but there is one; start "
            "it by `torchrun --nproc-per-node GPUS -m workers.rewards.train RUN_DIR`, or set shard to false"
        )
    progress = Progress(run_dir / "progress.jsonl" if team.first else Path(os.devnull))
    notes = filter(None, (labels.split.note, labels.watched.note))
    progress.say("loading", message="; ".join(notes) or None)

    # Load the base model
    config = asked.resolved(base.architecture, int(base.config.hidden_size), team.device.type)
    free = None if config.tuning == "frozen" else free_bytes(team.device)
    if free is not None:
        free = team.least(free)  # steps follow from it, which are the same in all processes
    size = None if free is None else weigh(base.config, config, free, team, progress)
    lies_over = record_of(config, base, team.device) if team.first else None
    backbone = backbone_of(asked, base, team.device, hollow=config.shard and not team.first)
    start = Start.of(base)
    tokenizer = load_tokenizer(base.name, base.tokenizer.path, base.tokenizer.revision)
    check_vocabulary(config.base_model, tokenizer)
    template = template_of(
        tokenizer,
        architecture=base.architecture,
        ordinal=config.ordinal,
        max_length=min(config.max_length, longest_text(backbone) or sys.maxsize),
        pool_prompt=config.pool_prompt,
        reads=base.reads if tokenizer.chat_template else "response",
        policy=config.method == "haf",
    )
    if template.read_as:
        progress.say("loading", message=f"texts are read through {template.read_as}")
    stop.check()

    # Read the texts, leave out what reads alike, group them into steps
    texts = read(template, labels, config)
    judged = labels.data
    if not config.token_budget:  # a run that goes on keeps its steps, whatever memory is free now
        config = replace(config, token_budget=begun(run_dir / "checkpoint").get("token_budget", 0))
    memory = None
    if free is not None and size is not None:
        memory = fit(size, config, free, max(texts.lengths), team.size)
        config = memory.applied(config)
    data, planned, config = plan(texts, labels, config, None if memory is None else memory.tokens * team.size)
    if asked.learning_rate is None:
        config = config.with_rate(int(base.config.hidden_size))

    over = team if config.shard else None
    model = untrained(backbone, template.digit_ids, config, data, team.device, start, over)
    if told := start.note(model):
        progress.say("loading", message=told)
    encoder = encoder_of(model, template, config, team, memory)

    # Compute once: a frozen encoder's embeddings, a policy's starting log-probabilities
    def on_progress(done: int, total: int) -> None:
        # together, as a sharded model's passes are
        if team.any(stop.wanted) if config.shard else stop.wanted:
            raise Stopped
        progress.say("embedding", done, total)

    features = embed_cached(encoder, texts.rows, on_progress) if config.tuning == "frozen" else None
    # a lone annotator can't be told from the task's own difficulty
    several = config.reliability and len(data.annotators) > 1
    reliability = Reliability(judged, sides_only=config.ordinal) if several else None
    loss = StepLoss(model, config, data, texts.rows, features, encoder, reliability)
    if loss.with_policy:
        loss.keep_reference(on_progress)
    watch = watch_of(labels, model, config) if labels.watched.held_out else None
    note = labels.watched.note
    if watch is not None and not watch.usable:
        watch, note = None, "no early stopping: nobody labelled the watched"
    return Run(
        run_dir=run_dir,
        config=config,
        team=team,
        stop=stop,
        progress=progress,
        base=base,
        start=start,
        labels=labels,
        texts=texts,
        plan=planned,
        model=model,
        encoder=encoder,
        memory=memory,
        features=features,
        reliability=reliability,
        loss=loss,
        optimizer=make_optimizer(model, config),
        watch=watch,
        watch_note=note,
        lies_over=lies_over,
    )


def join(run: Run) -> None:
    """Give the first process the whole model that the processes trained; the others end here. All take part.

    What didn't learn is loaded from the base model again. The CPU scores where a card doesn't hold all weights.
    """
    found = gathered(dict(learned(run.model)), keep=run.team.first)
    for part in (run, run.loss, run.watch):
        if part is not None:
            del part.model
    del run.encoder, run.loss.encoder, run.optimizer
    gc.collect()
    if not run.team.first:
        return
    device = run.team.device
    free = free_bytes(device)
    if free is not None and run.memory is not None and run.memory.weights > USABLE * free:
        device = torch.device("cpu")
        run.progress.say(
            "scoring", message="no card holds the whole model, so the CPU scores: this takes longer"
        )
        run.team = Group(size=run.team.size, device=device)
    backbone, digits = backbone_of(run.config, run.base, device), run.texts.template.digit_ids
    run.model = untrained(backbone, digits, run.config, run.loss.data, device, run.start)
    with torch.no_grad():
        for name, value in learned(run.model):
            value.copy_(found.pop(name))
    run.encoder = encoder_of(run.model, run.texts.template, run.config, Group(device=device), run.memory)


def divide(snapshot: Snapshot, config: RunConfig) -> Labels:
    """Held-out, watched and training sides. Raises Refused where there is nothing to train on."""
    check_labels(snapshot, config)
    split = split_groups(snapshot, config)
    watched = split_watched(snapshot, split, config) if config.patience else NOTHING
    data = training_data(snapshot, split.joined_with(watched), config)
    return Labels(snapshot, snapshot, split, watched, data)


def read(template: Template, labels: Labels, config: ResolvedConfig) -> Texts:
    """The snapshot's texts as ids; the judgements of pairs that read alike leave `labels`, counted. Raises Refused."""
    snapshot = labels.snapshot
    rows = template.encode(snapshot.responses)
    alike = reads_alike(snapshot, rows)
    unknown = str(template.tokenizer.unk_token or "")
    reading = report(snapshot, rows, alike, labels.split, max_length=template.max_length, token=unknown)
    reading["read_as"] = template.read_as
    reading["notes"] += template.notes(snapshot.responses)
    labels.learned = readable(snapshot, alike)
    if alike:
        before = len(labels.data.first)
        try:
            labels.data = training_data(labels.learned, labels.kept, config)
        except Refused as error:
            raise Refused(f"{' '.join(reading['notes'])} ({error})") from None
        labels.data.dropped["reads_alike"] = before - len(labels.data.first)
    return Texts(template, rows, len(rows), reading)


def weigh(base: Any, config: ResolvedConfig, free: int, team: Group, progress: Progress) -> Sizes:
    """The base model in numbers, told before its weights are read. Raises Refused where they can't fit a GPU."""
    counted = sizes(base, config)
    memory = fit(counted, config, free, 1, team.size)
    progress.say("loading", message=f"memory: {memory}")
    if team.first:
        print(f"memory: {memory}", file=sys.stderr, flush=True)
    return counted


def plan(
    texts: Texts, labels: Labels, config: ResolvedConfig, held: int | None = None
) -> tuple[TrainingData, Plan, ResolvedConfig]:
    """What the steps of an epoch are drawn from, with hardening's copies where they are asked for.

    `held`: tokens that all GPUs hold at once; None on a CPU. Returns the data with the copies' terms, and the config
    with its budgets. The copies' rows join `texts`.
    """
    judged = labels.data
    lengths = texts.lengths
    config = config.with_budget(sum(lengths[response] for response in judged.trained_on), held)
    steps = steps_of(judged, lengths, config)
    if not config.hardening:
        return judged, Plan(steps, config.seed, judged), config
    copies, encoded, data = harden(
        labels.snapshot.responses, texts.rows, judged, texts.template.encode, config
    )
    texts.rows += encoded
    return data, Plan(steps, config.seed, data, copies), config


def base_of(config: RunConfig, run_dir: Path) -> Base:
    """What config.json's base model is, if the method and tuning can use it. Raises Refused."""
    base = look_at(config.base_model, find_base(config.base_model, run_dir))
    if config.backbone not in ("auto", base.architecture):
        raise Refused(
            f"config.json: backbone is {config.backbone!r}, but {base.name} is "
            f"{'a text encoder' if base.architecture == 'encoder' else 'a causal language model'}; leave it out"
        )
    config.resolved(base.architecture, int(base.config.hidden_size))  # raises Refused for a misfit
    base.check_method(config.method)
    if config.tuning == "qlora":
        check_quantising()
    return base


def going_on(config: RunConfig, base: Base) -> RunConfig:
    """The configuration with rank and alpha of adapters that go on. Raises Refused where it asks for others."""
    if config.tuning not in ADAPTED or base.lora is None:
        return config
    have: dict[str, Any] = {"lora_rank": int(base.lora["r"]), "lora_alpha": int(base.lora["lora_alpha"])}
    for key, value in have.items():
        if getattr(config, key) not in (None, value):
            raise Refused(
                f"config.json: {key} is {getattr(config, key)}, but the adapters of {base.name}, which go on learning, "
                f"have {value}; leave {key} out, or start from the model below them"
            )
    if base.lora.get("modules_to_save") or (config.tuning == "qlora" and base.lora.get("use_dora")):
        raise Refused(
            f"the adapters of {base.name} hold more than LoRA's matrices, so they can't go on with tuning "
            f"{config.tuning}; use tuned, which merges them first"
        )
    return dataclasses.replace(config, **have)


def record_of(config: ResolvedConfig, base: Base, device: torch.device) -> dict[str, Any] | None:
    """What the run's adapters will lie over: the model below adapters that go on, never those. None without any.

    Raises Refused where the base model is no longer the one that a version's adapters were trained over.
    """
    earlier = (base.caliper or {}).get("base") if base.adapters is not None else None
    if earlier is not None:
        try:
            check_base(base.name, earlier, base.source)
        except ArtifactError as error:
            raise Refused(str(error)) from None
    if config.tuning not in ADAPTED:
        return None
    half = device.type == "cuda"
    dtype = FOUR_BIT if config.tuning == "qlora" else "bfloat16" if half else "float32"
    if earlier is not None:
        return {**earlier, "dtype": dtype}
    return describe_base(base.name if base.adapters is None else base.source.path, base.source, dtype)


def backbone_of(
    config: RunConfig, base: Base, device: torch.device, *, hollow: bool = False
) -> torch.nn.Module:
    """The base model's weights, or its shape alone. Those that learn stay in fp32; that of adapters doesn't learn."""
    if hollow:
        half = config.tuning == "lora" and device.type == "cuda"
        return load_hollow(base, torch.bfloat16 if half else torch.float32)
    if config.tuning == "qlora":
        return load_quantised(base, device)
    if config.tuning == "lora":
        return load_base(base, torch.bfloat16 if device.type == "cuda" else torch.float32)
    return load_merged(base)


def untrained(
    backbone: torch.nn.Module,
    digit_ids: tuple[int, ...] | None,
    config: ResolvedConfig,
    data: TrainingData,
    device: torch.device,
    start: Start,
    over: Group | None = None,
) -> RewardModel:
    """The model before its first step; seeded before the head is made. `over` these processes it is sharded."""
    torch.manual_seed(config.seed)
    model = RewardModel(
        backbone,
        architecture=config.backbone,
        kind=config.kind,
        head_hidden=config.head_hidden,
        digit_ids=digit_ids,
    )
    try:
        make_trainable(model, config, data, start.adapters if config.tuning in ADAPTED else None)
    except ValueError as error:
        raise unfitting(start.base, error) from None
    start.give(model)
    if over is not None:
        shard(model, over)
        return model
    model.to(device)
    if device.type == "cpu":
        model.gather_embedding_gradient()
    return model


def encoder_of(
    model: RewardModel,
    template: Template,
    config: ResolvedConfig,
    team: Group,
    memory: Memory | None = None,
) -> ResponseEncoder:
    return ResponseEncoder(
        model,
        team.device,
        config.micro_batch_tokens,
        longest=template.max_length,
        kept_tokens=config.kept_tokens if memory is None else memory.tokens,
        group=team,
    )


def steps_of(judged: TrainingData, lengths: Sequence[int], config: ResolvedConfig) -> Blocks | Draws:
    """What people's judgements and levels are divided into: steps of equal counts for heads, else of equal tokens."""
    if config.tuning == "frozen":
        return Draws(judged.first, judged.second, judged.level_response)
    pairs = list(zip(judged.first.tolist(), judged.second.tolist(), strict=True))
    return Blocks(pairs, judged.level_response.tolist(), lengths, config.token_budget)


def make_trainable(
    model: RewardModel,
    config: ResolvedConfig,
    data: TrainingData,
    adapters: tuple[Any, dict[str, torch.Tensor]] | None = None,
) -> None:
    """Which weights learn, and the thresholds that the labels need. `adapters`: those that go on."""
    if config.dropout is not None:
        set_dropout(model.backbone, config.dropout)
    if config.gradient_checkpointing or config.shard:
        model.checkpoint_gradients()
    if config.tuning in ADAPTED:
        model.add_lora(config, adapters)
    elif config.tuning == "frozen":
        model.backbone.requires_grad_(False)
    if config.method in ("bt", "haf") and not config.ordinal:
        model.add_thresholds(
            ties=bool((data.outcome == objectives.TIE).any()),
            both_bad=bool((data.outcome == objectives.BOTH_BAD).any()),
        )
        strong = data.strength[data.outcome != objectives.BOTH_BAD]
        if config.strength_taught == "thresholds" and bool(strong.any()):
            said = len(strong) + 2
            model.add_strengths(
                [(int((strong >= m).sum()) + 1) / said for m in range(2, objectives.MAX_STRENGTH + 1)]
            )
    if len(data.level_value) and not config.ordinal:
        bad, normal, good = (torch.bincount(data.level_value, minlength=3) + 1).tolist()
        # where a reward of 0 has the levels' shares
        model.add_cuts(logit(bad / (bad + normal + good)), logit((bad + normal) / (bad + normal + good)))


def watch_of(labels: Labels, model: RewardModel, config: ResolvedConfig) -> Watch:
    """What early stopping looks at; never what is trained on."""
    rows = held_out_rows(labels.learned, labels.watched)
    watch = Watch(rows, labels.snapshot.index, model, config.patience)
    assert labels.data.trained_on.isdisjoint(watch.responses), "a watched response is trained on"
    return watch
