"""What a run is told: one frozen dataclass, every key checked, every refusal naming the key and the remedy."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .scale import RATINGS, Partition

FORMAT = 1
CODE_VERSION = "0.9.0"
GENERATIVE_METHODS = ("grm", "judge")  # a language model writes critiques and scores: votes, see generative/
METHODS = ("bt", "clf", "oprm", "rgft", "haf", *GENERATIVE_METHODS)
ORDINAL_METHODS = ("oprm", "rgft", *GENERATIVE_METHODS)
TUNINGS = ("frozen", "tuned", "lora", "qlora")
ADAPTED = ("lora", "qlora")  # tunings whose base model does not learn
LORA_RANK, LORA_ALPHA = 16, 32
OPTIMIZERS = ("adamw", "adamw_8bit")
TRACKERS = ("none", "tensorboard", "trackio", "wandb", "mlflow")
SHARDED = ("tuned", "lora")  # tunings whose weights can be divided among processes
ARCHITECTURES = ("auto", "encoder", "causal")
LEVEL_TERMS = ("none", "unpaired", "all")
VOTES = ("each", "majority")
HAF_HEADS = ("scalar", "ordinal")
STRENGTHS = ("margin", "thresholds", "none")
STAGES = ("rft", "grpo", "meta", "rft,grpo", "rft,meta", "grpo,meta", "rft,grpo,meta")
ENDPOINT = "endpoint:"  # base_model of a judge that a server runs; its name stands in CALIPER_ENDPOINTS
FOLDS = 5  # of cross-fitted predictions
REGIONS = ("none", "flood", "intersect", "rectangle")
# rgft's settings that have a name of their own: the paper's (arXiv 2602.12660), and the default.
PRESETS: dict[str, dict[str, Any]] = {
    "product": {"region": "intersect", "level_terms": "all"},
    "paper": {"region": "flood", "level_terms": "none", "smoothness": 0.0},
}
# Keys of older versions' config.json, and the values that meant what this version does; None: any value.
RETIRED: dict[str, tuple[Any, ...] | None] = {
    "read_claims": None,
    "nonce": (False,),
    "policy_loss": ("dpo",),
    "simpo_gamma": None,
    "margin": (0, 0.0),
    "packing": None,
    "share_prefix": None,
    "kept_tokens": None,
    "lora_dropout": (0, 0.0),
    "compile": (False,),
    "reliability_prior": ([0.5, 4.5], (0.5, 4.5)),
    "validation": (0.1,),
    "evaluations_per_epoch": (2,),
}


class Refused(Exception):
    """The run cannot start as asked. The message is one line that names what is wrong and what to do."""


@dataclass(frozen=True)
class RunConfig:
    """config.json of a run folder. None means: the default for this backbone and tuning, see TUNED_DEFAULTS."""

    format: int = FORMAT
    method: str = "bt"  # bt | clf | oprm | rgft | haf | grm | judge
    base_model: str = "all-MiniLM-L6-v2"  # packaged model, hub id or folder; judge: also endpoint:NAME
    backbone: str = "auto"  # auto reads the base model's architecture
    tuning: str = "tuned"  # frozen (encoder, and always judge) | tuned | lora, qlora (causal)
    partition: tuple[int, int] = (3, 6)  # highest bad rating, highest normal rating
    seed: int = 0
    snapshot_digest: str = ""
    code_version: str = CODE_VERSION

    # data
    holdout: float = 0.2  # share of the labelled groups that is kept for measuring
    held_out_groups: tuple[str, ...] | None = None  # these groups instead of a drawn share
    split_salt: str | None = None  # a project's own: all its runs hold out the same groups; None: by the seed
    crossfit: int | None = None  # folds for predictions of trained responses, 0 or 5; None: 5 if frozen
    max_length: int | None = None  # tokens of prompt, response and template; the base model may have fewer

    votes: str = "each"  # each judgement a term of its own | one term a pair with the majority's verdict
    reliability: bool = True  # weigh each annotator's judgements by a fitted error rate (reliability.py)

    # objective
    region: str = "intersect"  # rgft: flood | intersect | rectangle | none
    level_terms: str | None = None  # whose levels are terms: none | unpaired | all; None: see levels_taught
    # Strength m. margin: bt, haf add strength_margin a step above 1; ordinal i - j >= m. thresholds: bt, haf learn from
    # which difference on people say m. None: margin for scalar rewards, none for ordinal ones.
    strength: str | None = None
    strength_margin: float = 1.0
    centring: float = 0.01  # bt, haf: weight of (r_a + r_b)^2
    smoothness: float | None = None  # ordinal: weight of the mean roughness (objectives/ordinal.py)
    alpha: float = 0.2  # haf: weight of the policy term
    beta: float = 0.1  # haf: temperature of the policy term
    haf_head: str = "scalar"  # scalar: bt + alpha * policy | ordinal: oprm + alpha * policy

    hardening: float = 0.0  # share of the trained responses that get an attacked copy, see hardening.py

    pool_prompt: bool = False  # encoder: whether the head's mean takes in the prompt, or the response alone

    # optimisation
    epochs: int | None = None
    learning_rate: float | None = None  # backbone
    head_learning_rate: float | None = None
    warmup: float = 0.1  # share of the steps, then a straight line down to zero
    weight_decay: float = 0.01
    optimizer: str = "adamw"  # adamw | adamw_8bit: a quarter of its memory, by bitsandbytes
    clip_norm: float = 1.0
    token_budget: int | None = None  # of distinct responses in a step (not frozen); None: see with_budget
    micro_batch_tokens: int | None = None  # tokens of one forward pass; None: see with_budget
    head_hidden: int | None = None  # width of a hidden layer before the head, 0 for none
    lora_rank: int | None = None  # None: that of the adapters that go on, else LORA_RANK
    lora_alpha: int | None = None  # likewise
    dropout: float | None = 0.0  # in the backbone while it is tuned; None: the base model's own
    # Keep layers' inputs only: less memory, a third more computing. None: with shard, and where a GPU lacks memory.
    gradient_checkpointing: bool | None = None
    checkpoint_seconds: float = 60.0
    report_to: str = "none"  # tracker: none | tensorboard | trackio | wandb | mlflow
    shard: bool = False  # divide the weights among the processes (models/sharding.py)

    # grm, judge (generative/; arXiv 2504.02495)
    samples: int = 8  # k, votes on each response
    sampling_temperature: float = 0.5  # of the votes; trajectories to learn from are drawn at 1
    max_new_tokens: int = 1024  # of principles, critiques and scores
    guidelines: str = ""  # the project's, which stand in the prompt as criteria
    cost_limit: float | None = None  # judge by endpoint: in the currency of its prices
    token_limit: int | None = None  # judge by endpoint: of prompts and answers
    stages: str = "rft,grpo"  # grm: which of rft, grpo, meta it goes through
    kl: float = 0.01  # grm: weight of the KL term of GRPO
    group: int = 4  # grm: completions of a prompt that GRPO compares
    grpo_steps: int | None = None  # grm; None: one pass over the items, at most the paper's 900
    grpo_learning_rate: float | None = None  # grm; None: see grpo_rate

    # early stopping
    patience: int = 0  # looks without a lower NLL before training ends; 0: all epochs, and the last weights

    @property
    def ordinal(self) -> bool:
        """Whether the model predicts a distribution over the ratings rather than one number."""
        return self.method in ORDINAL_METHODS or (self.method == "haf" and self.haf_head == "ordinal")

    @property
    def generative(self) -> bool:
        """Whether a language model writes critiques and scores (grm, judge)."""
        return self.method in GENERATIVE_METHODS

    @property
    def endpoint(self) -> str | None:
        """The name of the endpoint that judges; None where the weights are here."""
        return self.base_model.removeprefix(ENDPOINT) if self.base_model.startswith(ENDPOINT) else None

    @property
    def strength_taught(self) -> str:
        """How a judgement's strength counts: margin, thresholds or none."""
        return self.strength or ("none" if self.ordinal else "margin")

    @property
    def levels_taught(self) -> str:
        """Whose levels are terms of their own: oprm stays the paper's unless asked, which knows the order alone."""
        return self.level_terms or ("none" if self.method == "oprm" else "all")

    @property
    def preset(self) -> str:
        """The name of rgft's settings among PRESETS; empty for settings of their own, and for other methods."""
        chosen = {"region": self.region, "level_terms": self.levels_taught, "smoothness": self.smoothness}
        named = (name for name, settings in PRESETS.items() if settings.items() <= chosen.items())
        return next(named, "") if self.method == "rgft" else ""

    @property
    def can_crossfit(self) -> bool:
        """Whether a fold can begin without having seen its labels: a version's weights know them."""
        return not self.base_model.startswith("version:") and not self.generative

    @property
    def kind(self) -> str:
        return "ordinal" if self.ordinal else "scalar"

    @property
    def scale(self) -> Partition:
        return Partition(*self.partition)

    @classmethod
    def read(cls, path: Path) -> RunConfig:
        """Read config.json. Raises Refused."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise Refused(f"{path} does not exist; a run folder needs config.json") from None
        except (OSError, ValueError) as error:
            raise Refused(f"{path} is not readable JSON: {error}") from None
        if not isinstance(values, dict):
            raise Refused(f"{path} must hold one JSON object")
        return cls.from_dict(values)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunConfig:
        """Check keys, types and ranges. Raises Refused with the key's name."""
        for key, meant in RETIRED.items():
            if meant is not None and key in values and values[key] not in meant:
                raise Refused(f"config.json: {key} is no option any more; leave it out")
        values = _renamed({key: value for key, value in values.items() if key not in RETIRED})
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for key in values:
            if key not in fields:
                near = difflib.get_close_matches(key, fields, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(fields)}"
                raise Refused(f"config.json: unknown key {key!r}; {hint}")
        config = cls(**{key: _typed(key, str(fields[key].type), value) for key, value in values.items()})
        config._check()
        return config

    def _check(self) -> None:
        if self.format != FORMAT:
            raise Refused(f"config.json: format is {self.format}, this program reads {FORMAT}")
        for key, choices in {
            "method": METHODS,
            "tuning": TUNINGS,
            "backbone": ARCHITECTURES,
            "region": REGIONS,
            "level_terms": LEVEL_TERMS,
            "strength": STRENGTHS,
            "votes": VOTES,
            "haf_head": HAF_HEADS,
            "optimizer": OPTIMIZERS,
            "report_to": TRACKERS,
            "stages": STAGES,
        }.items():
            value = getattr(self, key)
            if value not in choices and (value is not None or key not in ("level_terms", "strength")):
                raise Refused(f"config.json: {key} is {value!r}; choose one of {', '.join(choices)}")
        if not self.base_model:
            raise Refused("config.json: base_model is empty; name a hub id or a folder")
        try:
            Partition(*self.partition)
        except ValueError as error:
            raise Refused(f"config.json: {error}") from None
        for key, (low, high) in _RANGES.items():
            value = getattr(self, key)
            parts = value if isinstance(value, tuple) else () if value is None else (value,)
            if not all(low <= part <= high for part in parts):
                raise Refused(f"config.json: {key} is {value}; it must lie within {low}..{high}")
        self._check_generative()
        if self.strength == "thresholds" and (self.ordinal or self.method == "clf"):
            raise Refused(
                "config.json: strength is 'thresholds', which lie on the difference of two rewards (bt, or haf with a "
                "scalar head); use margin or none"
            )
        if self.shard and self.tuning not in SHARDED:
            raise Refused(
                f"config.json: shard divides weights that learn, but tuning is {self.tuning!r}; set shard to false, or "
                f"tuning to {' or '.join(SHARDED)}"
            )
        if self.shard and self.optimizer == "adamw_8bit":
            raise Refused(
                "config.json: optimizer is 'adamw_8bit', which knows no divided weights; with shard each process "
                "keeps only its part of the moments: set it to 'adamw'"
            )
        if self.shard and self.crossfit:
            raise Refused(
                "config.json: crossfit trains its models in one process, so the weights must fit there; set it to 0, "
                "or shard to false"
            )
        if self.crossfit not in (None, 0, FOLDS):
            raise Refused(f"config.json: crossfit is {self.crossfit}; it must be 0 or {FOLDS}")
        if self.crossfit and not self.can_crossfit:
            raise Refused(
                f"config.json: crossfit is {self.crossfit}, which needs a base model that has not seen the labels; "
                "set it to 0"
            )

    def _check_generative(self) -> None:
        """Raises Refused for what grm and judge can't do, and for what they alone can."""
        if self.endpoint is not None and self.method != "judge":
            raise Refused(
                f"config.json: base_model is {self.base_model!r}, whose weights are not here; {self.method} trains a "
                "model, so name one, or set method to 'judge'"
            )
        if self.endpoint == "":
            raise Refused("config.json: base_model is 'endpoint:'; name one of those in CALIPER_ENDPOINTS")
        for key in ("cost_limit", "token_limit"):
            if getattr(self, key) is not None and self.endpoint is None:
                raise Refused(
                    f"config.json: {key} ends what an endpoint is asked; leave it out for {self.base_model}"
                )
        if not self.generative:
            return
        if (self.method == "judge") != (self.tuning == "frozen"):
            raise Refused(
                "config.json: judge learns nothing; set tuning to 'frozen', or method to 'grm'"
                if self.method == "judge"
                else "config.json: grm trains the language model itself; set tuning to tuned, lora or qlora, or method "
                "to 'judge', which needs no training"
            )
        if self.crossfit:
            raise Refused(
                f"config.json: crossfit is {self.crossfit}, but "
                + (
                    "a judge has seen no label: all its predictions are as good as held-out ones; set it to 0"
                    if self.method == "judge"
                    else "grm would be trained six times over; set it to 0, and compare on the held-out pairs"
                )
            )
        for key, meant in {"shard": False, "hardening": 0.0, "patience": 0}.items():
            if (value := getattr(self, key)) != meant:
                raise Refused(
                    f"config.json: {key} is {value}, which {self.method} does not know; set it to {str(meant).lower()}"
                )

    def resolved(self, architecture: str, hidden_size: int, device: str = "cpu") -> ResolvedConfig:
        """Every default filled for this architecture ("encoder" or "causal") and width, but for those of the texts.

        with_budget fills those. Raises Refused if architecture, method and tuning don't fit.
        """
        if self.method == "haf" and architecture != "causal":
            raise Refused(
                f"method haf needs a causal language model, but {self.base_model} is a text encoder; "
                "choose another base model (manage.py build_starter_lm makes a small one) or another method"
            )
        if self.generative and architecture != "causal":
            raise Refused(
                f"method {self.method} needs a causal language model that writes critiques, but {self.base_model} is a "
                "text encoder; choose an instruct model (such as Qwen/Qwen2.5-0.5B-Instruct) or another method"
            )
        if self.method == "judge":
            defaults = dict(JUDGE_DEFAULTS)
        elif (architecture, self.tuning) not in TUNED_DEFAULTS:
            fitting = " or ".join(tuning for key, tuning in TUNED_DEFAULTS if key == architecture)
            raise Refused(
                f"config.json: tuning is {self.tuning!r}, but {self.base_model} is "
                f"{'a text encoder' if architecture == 'encoder' else 'a causal language model'}; use {fitting}"
            )
        else:
            defaults = dict(TUNED_DEFAULTS[architecture, self.tuning])
        if self.method == "grm":
            defaults |= {"epochs": 2, "max_length": JUDGE_DEFAULTS["max_length"]}
            defaults["grpo_learning_rate"] = grpo_rate(self.tuning, hidden_size)
        if self.tuning != "frozen":  # small steps: with_rate knows better once the texts are read
            defaults["learning_rate"] = default_rate(architecture, self.tuning, hidden_size, 0)
        if self.shard:  # who divides weights lacks memory
            defaults["gradient_checkpointing"] = True
        if device != "cpu":
            defaults["micro_batch_tokens"] = 32_768  # a GPU wants to be filled: see memory.LARGEST_PASS
        chosen = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        chosen |= {key: value for key, value in defaults.items() if chosen[key] is None}
        chosen |= {key: chosen[key] or 0 for key in ("token_budget", "micro_batch_tokens")}
        chosen |= {"lora_rank": self.lora_rank or LORA_RANK, "lora_alpha": self.lora_alpha or LORA_ALPHA}
        chosen |= {"level_terms": self.levels_taught, "strength": self.strength_taught}
        if self.crossfit is None:
            chosen["crossfit"] = FOLDS if self.tuning == "frozen" and self.can_crossfit else 0
        return ResolvedConfig(**{**chosen, "backbone": architecture})

    def to_json(self) -> dict[str, Any]:
        """The JSON object that from_dict reads back."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(self).items()
        }


@dataclass(frozen=True)
class ResolvedConfig(RunConfig):
    """A RunConfig in which every default is filled; both budgets are 0 until with_budget has seen the texts."""

    max_length: int = 0
    epochs: int = 0
    learning_rate: float = 0.0
    head_learning_rate: float = 0.0
    token_budget: int = 0
    micro_batch_tokens: int = 0
    head_hidden: int = 0
    lora_rank: int = 0
    lora_alpha: int = 0
    smoothness: float = 0.0
    crossfit: int = 0
    grpo_learning_rate: float = 0.0

    def with_budget(self, tokens: int, held: int | None = None) -> ResolvedConfig:
        """Fill token_budget from the tokens of all trained responses: a sixteenth, within BUDGET_BOUNDS.

        A small project would otherwise be one step an epoch. A large one gains nothing from larger blocks, since most
        pairs already meet inside one. A CPU's micro-batches are half the budget, 512 to 1,024; larger ones gain
        little. GPUs have `held`, the tokens that they hold at once: a step is GPU_BUDGET tokens or more, up to what is
        held, but an epoch keeps eight steps.
        """
        low, high = BUDGET_BOUNDS
        if held is not None:
            low = min(GPU_BUDGET, max(low, tokens // 8))
            high = max(1, held // GPU_BUDGET) * GPU_BUDGET
        budget = self.token_budget or min(high, max(low, tokens // 16))
        micro = self.micro_batch_tokens or min(1024, max(512, budget // 2))
        return dataclasses.replace(self, token_budget=budget, micro_batch_tokens=micro)

    def with_rate(self, hidden_size: int) -> ResolvedConfig:
        """The default learning rate for a model of this width and steps of token_budget tokens."""
        rate = self.learning_rate
        if self.tuning != "frozen":
            rate = default_rate(self.backbone, self.tuning, hidden_size, self.token_budget)
        return dataclasses.replace(self, learning_rate=rate)

    @property
    def kept_tokens(self) -> int:
        """Tokens whose activations a step keeps for the gradient; those of the others are computed again."""
        return max(self.token_budget, self.micro_batch_tokens)


BUDGET_BOUNDS = (512, 2048)
GPU_BUDGET = 16_384

# Learning rates of the backbone, by the size of a step. Small steps (under GPU_BUDGET tokens of distinct responses; on
# a CPU 2,048, a few pairs to some dozens): by width, since wider models want smaller steps. Encoders 1.5e-4 at MiniLM's
# 384, measured (below); causal models 1.6e-4 at the starter's 256 and 1e-5 at 4,096; LoRA ten times that.
RATE_BY_WIDTH = {"encoder": 0.0576, "tuned": 0.041, "lora": 0.41, "qlora": 0.41}
# Larger steps, on causal models of PRETRAINED width and more: as published for reward models. All weights: 1e-5 at 16
# pairs (TRL's example, Qwen2-0.5B) and 9e-6 at 256 pairs (OpenRLHF's train_rm, Llama-3-8B). LoRA: 1e-4 (the default of
# TRL's RewardConfig), ten times the other. For encoders none was found; theirs stay.
RATE_LARGE_STEPS = {"tuned": 1e-5, "lora": 1e-4, "qlora": 1e-4}
PRETRAINED = 896  # Qwen2.5-0.5B; narrower ones are starters, made from a project's own texts


def default_rate(architecture: str, tuning: str, hidden_size: int, step_tokens: int) -> float:
    """The backbone's learning rate where none is asked for: of AdamW, for steps of this many tokens."""
    by_width = RATE_BY_WIDTH["encoder" if architecture == "encoder" else tuning] / hidden_size
    if architecture == "causal" and step_tokens >= GPU_BUDGET and hidden_size >= PRETRAINED:
        return min(by_width, RATE_LARGE_STEPS[tuning])
    return by_width


def grpo_rate(tuning: str, hidden_size: int) -> float:
    """The learning rate of GRPO where none is asked for.

    Adapters 1e-5 (haizelabs/j1-micro, 1.7B), all weights 1e-6 (TRL's default; the paper's 27B model had 4e-7). Starters
    are so narrow, and have learnt so little, that by width they want some hundred times that; at 96 wide 1e-3 drove a
    model out of the form.
    """
    if hidden_size >= PRETRAINED:
        return 1e-6 if tuning == "tuned" else 1e-5
    return (0.03 if tuning == "tuned" else 0.3) / hidden_size


# Encoder, tuned: bt on UKPConvArg1 strict (benchmarks/quality.py, six folds, three seeds) has accuracy .835 with these
# and at 2.5e-4; .831 with five epochs at 1e-4 (four folds, one seed, where these had .836).
TUNED_DEFAULTS: dict[tuple[str, str], dict[str, Any]] = {
    ("encoder", "frozen"): {
        "epochs": 10,
        "learning_rate": 0.0,
        "head_learning_rate": 1e-3,
        "max_length": 512,
        "head_hidden": 256,
        "smoothness": 0.1,
    },
    ("encoder", "tuned"): {
        "epochs": 3,
        "head_learning_rate": 1e-3,
        "max_length": 512,
        "head_hidden": 0,
        "smoothness": 0.1,
    },
    ("causal", "tuned"): {
        "epochs": 3,
        "head_learning_rate": 1e-3,
        "max_length": 4096,
        "head_hidden": 0,
        "smoothness": 0.0,
    },
    ("causal", "lora"): {
        "epochs": 3,
        "head_learning_rate": 1e-3,
        "max_length": 4096,
        "head_hidden": 0,
        "smoothness": 0.0,
    },
}
TUNED_DEFAULTS["causal", "qlora"] = TUNED_DEFAULTS["causal", "lora"]
# Nothing learns; the prompt holds up to four responses.
JUDGE_DEFAULTS: dict[str, Any] = {
    "epochs": 0,
    "learning_rate": 0.0,
    "head_learning_rate": 0.0,
    "max_length": 8192,
    "head_hidden": 0,
    "smoothness": 0.0,
    "grpo_learning_rate": 0.0,
}

_RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, 2**31 - 1),
    "holdout": (0.0, 0.9),
    "max_length": (32, 1_000_000),
    "strength_margin": (0.0, 100.0),
    "centring": (0.0, 100.0),
    "smoothness": (0.0, 100.0),
    "alpha": (0.0, 100.0),
    "beta": (1e-6, 100.0),
    "hardening": (0.0, 1.0),
    "epochs": (1, 10_000),
    "learning_rate": (0.0, 1.0),
    "head_learning_rate": (0.0, 1.0),
    "warmup": (0.0, 1.0),
    "weight_decay": (0.0, 1.0),
    "clip_norm": (1e-6, 1e6),
    "token_budget": (1, 100_000_000),
    "micro_batch_tokens": (1, 100_000_000),
    "head_hidden": (0, 65_536),
    "lora_rank": (1, 4096),
    "lora_alpha": (1, 65_536),
    "dropout": (0.0, 0.9),
    "checkpoint_seconds": (0.0, 86_400.0),
    "patience": (0, 10_000),
    "samples": (1, 64),
    "sampling_temperature": (0.0, 2.0),
    "max_new_tokens": (16, 16_384),
    "cost_limit": (0.0, 1e9),
    "token_limit": (1, 10**12),
    "kl": (0.0, 10.0),
    "group": (2, 64),
    "grpo_steps": (1, 100_000),
    "grpo_learning_rate": (0.0, 1.0),
}


def _renamed(values: dict[str, Any]) -> dict[str, Any]:
    """Keys of older versions under their names of now: use_strength true or false was strength margin or none."""
    if "use_strength" not in values:
        return values
    used = _typed("use_strength", "bool | None", values.pop("use_strength"))
    said = None if used is None else "margin" if used else "none"
    return {"strength": said, **values}


def _typed(key: str, annotation: str, value: Any) -> Any:
    """The value as its field's type, or Refused. Annotations are strings here (postponed evaluation)."""
    optional = annotation.endswith(" | None")
    wanted = annotation.removesuffix(" | None")
    if value is None and optional:
        return None
    if wanted == "bool" and isinstance(value, bool):
        return value
    if wanted == "int" and isinstance(value, int) and not isinstance(value, bool):
        return value
    if wanted == "float" and _is_number(value):
        return float(value)
    if wanted == "str" and isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)):
        if wanted == "tuple[int, int]" and len(value) == 2 and all(type(item) is int for item in value):
            return tuple(value)
        if wanted == "tuple[str, ...]" and all(isinstance(item, str) for item in value):
            return tuple(value)
    words = {
        "bool": "true or false",
        "int": "a whole number",
        "float": "a number",
        "str": "a string",
        "tuple[int, int]": f"two rising ratings such as [3, 6] within 1..{RATINGS - 1}",
        "tuple[str, ...]": "a list of strings",
    }[wanted]
    raise Refused(f"config.json: {key} is {value!r}; it must be {words}{' or null' if optional else ''}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
