"""What a base model is, read from its config.json (and adapter_config.json) alone, before any weight is read.

transformers' tables say it, not the names of heads: a model type with a causal language model is causal, whatever
head the checkpoint has, one with a masked one is a text encoder. A sequence classifier of one label is a reward model
to start from. webapp/corpus/base_models.py says the same of folders without transformers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..config import GENERATIVE_METHODS, ORDINAL_METHODS, Refused
from .base_models import Source, adapted, below, unloadable
from .lora import CONFIG_NAME as ADAPTERS
from .lora import WEIGHTS_NAME as ADAPTER_WEIGHTS

CALIPER = "caliper_reward"  # an encoder that Caliper exported, see artifacts/modeling_caliper.py
PACK = "reward_config.json"
_INSTEAD = "choose a text encoder (BERT, DeBERTa, ModernBERT) or a causal language model (Qwen, Llama, Gemma)"
_LANGUAGE_MODELS = (
    "ForCausalLM",
    "LMHeadModel",
    "WithLMHead",
    "GenerationDecoder",
    "ForConditionalGeneration",
)
_REWARD_MODELS = ("ForSequenceClassification", "RewardModel")
# heads of another task, whose backbone has forgotten to stand for a text
_OTHER_TASKS = ("ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice")
# LoraConfig's keys that say where adapters lie and what they are multiplied by
_LORA = frozenset({
    "r", "lora_alpha", "target_modules", "exclude_modules", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora",
    "fan_in_fan_out", "bias", "layers_to_transform", "layers_pattern", "target_parameters",
})  # fmt: skip
# keys that say nothing of a trained adapter's weights, or are looked at by name
_IDLE = frozenset({
    "task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "lora_dropout", "init_lora_weights", "modules_to_save", "megatron_core", "qalora_group_size", "loftq_config",
    "eva_config", "runtime_config",
})  # fmt: skip
_LORA_STARTS = (None, True, False, "gaussian", "orthogonal")  # others change the base model's own weights


@dataclass(frozen=True)
class Base:
    """A base model before its weights are read.

    architecture: "encoder" or "causal". `classifier`: it has a head of one label. `writes`: a causal one has its LM
    head. `caliper`: what a Caliper export or pack says of itself, else None. `adapters` lie over it, of which `lora`
    are the settings; `source` is then where the model below them lies. A hub's revisions are commits here.
    """

    name: str
    source: Source
    config: Any  # transformers' configuration, of the text part where a model has several
    architecture: str
    classifier: bool = False
    writes: bool = False
    caliper: dict[str, Any] | None = None
    adapters: Source | None = None
    lora: dict[str, Any] | None = None

    @property
    def revision(self) -> str | None:
        """The hub's commit of what the name stands for."""
        return (self.adapters or self.source).revision

    @property
    def tokenizer(self) -> Source:
        """Where the tokenizer lies: adapters may have one of their own."""
        own = self.adapters is not None and local_file(self.adapters, "tokenizer_config.json") is not None
        return self.adapters if own and self.adapters is not None else self.source

    @property
    def reads(self) -> str:
        """Where its reward was read: "turn" (the last token of all that a chat template renders) or "response"."""
        if self.caliper is not None:
            return str((self.caliper.get("template") or {}).get("reads", "response"))
        return "turn" if self.classifier and self.architecture == "causal" else "response"

    def check_method(self, method: str) -> None:
        """Raises Refused for a method that reads or trains an LM head where there is none."""
        if method in (*ORDINAL_METHODS, "haf") and self.architecture == "causal" and not self.writes:
            reads = (
                "trains the policy of"
                if method == "haf"
                else "writes critiques with"
                if method in GENERATIVE_METHODS
                else "reads its ratings from"
            )
            raise Refused(
                f"method {method} {reads} a language model's head, which base model {self.name!r} hasn't"
                f"{' (it is a reward model)' if self.classifier else ''}; use bt or clf, or choose the language model "
                "that it was made from"
            )


def look_at(name: str, source: Source, *, may_be_adapters: bool = True) -> Base:
    """What config.json's base_model is. Reads configuration files alone. Raises Refused."""
    try:
        source = looked_up(source)
        if (adapters := read_json(source, ADAPTERS)) is not None:
            if not may_be_adapters:
                raise Refused(
                    f"base model {name!r} is itself adapters (adapter_config.json); merge them first"
                )
            return _below(name, source, adapters)
        found = read_json(source, "config.json")
        if found is None or not found.get("model_type"):
            raise unloadable(
                name, ValueError("it has no config.json that names a model_type") if found else None
            )
        base = _of_config(name, source, found)
    except Refused:
        raise
    except Exception as error:
        raise unloadable(name, error) from None
    _check_weights(base)
    return base


def _of_config(name: str, source: Source, found: dict[str, Any]) -> Base:
    """The configuration as transformers read it, and what it stands for."""
    from transformers import CONFIG_MAPPING, AutoConfig, __version__

    pack = read_json(source, PACK)
    if found["model_type"] == CALIPER:
        inner = dict(found.get("backbone") or {})
        base = _of_text_model(name, source, AutoConfig.for_model(inner.pop("model_type"), **inner))
        return replace(base, classifier=True, caliper=found.get("caliper") or {})
    if found["model_type"] not in CONFIG_MAPPING:
        own = " (it needs code of its own, which is never run)" if found.get("auto_map") else ""
        raise Refused(
            f"base model {name!r} is a {found['model_type']!r}, which transformers {__version__} doesn't know{own}; "
            f"{_INSTEAD}"
        )
    if found.get("quantization_config"):
        how = (found["quantization_config"] or {}).get("quant_method", "unknown")
        raise Refused(
            f"base model {name!r} is quantised ({how}), and its weights can't be trained; choose the one that it was "
            "made from"
        )
    config = load_config(source)
    base = _of_text_model(name, source, config)
    told = pack or found.get("caliper")
    if hasattr(config, "caliper"):
        del config.caliper  # what is trained from it is another model
    return replace(base, caliper=told)


def load_config(source: Source) -> Any:
    """The base model's configuration, which has no say in how attention is computed: transformers' default for the
    architecture holds. "_attn_implementation": "org/kernel" would fetch compiled code from the hub."""
    from transformers import AutoConfig

    config: Any = AutoConfig.from_pretrained(
        source.path, revision=source.revision or "main", trust_remote_code=False
    )
    for part in (config, *(getattr(config, name, None) for name in config.sub_configs)):
        if part is not None:
            part._attn_implementation = None
    return config


def _of_text_model(name: str, source: Source, config: Any) -> Base:
    """Encoder or causal, by transformers' tables. Raises Refused for what is neither."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    made = str(next(iter(getattr(config, "architectures", None) or ()), ""))
    shown = made or config.model_type
    if getattr(config, "is_encoder_decoder", False):
        raise Refused(
            f"base model {name!r} is an encoder-decoder ({shown}), of which no one state has read the whole "
            f"text; {_INSTEAD}"
        )
    text = config.get_text_config()
    if text is not config and text.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise Refused(
            f"base model {name!r} also reads images or sound ({shown}), and transformers have no language model of its "
            f"text part alone; {_INSTEAD}"
        )
    senses = [key for key in ("vision_config", "audio_config") if getattr(config, key, None) is not None]
    if text is config and senses:
        raise Refused(f"base model {name!r} also reads images or sound ({shown}), not text alone; {_INSTEAD}")
    causal = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(text.model_type)
    masked = MODEL_FOR_MASKED_LM_MAPPING_NAMES.get(text.model_type)
    if causal is None and masked is None:
        raise Refused(
            f"base model {name!r} ({shown}) is neither a text encoder nor a causal language model; {_INSTEAD}"
        )
    if made.endswith(_OTHER_TASKS):
        raise Refused(
            f"base model {name!r} was made for another task ({made}); choose the model that it was made from"
        )
    classifier = made.endswith(_REWARD_MODELS)
    if made.endswith("ForSequenceClassification") and config.num_labels != 1:
        raise Refused(
            f"base model {name!r} is a classifier of {config.num_labels} labels ({made}), not a reward model, which "
            "has one; choose the model that it was made from"
        )
    if masked is not None and not getattr(text, "is_decoder", False):
        return Base(name, source, text, "encoder", classifier)
    if getattr(text, "use_bidirectional_attention", None):
        raise Refused(
            f"base model {name!r} ({shown}) is of a causal architecture, but its tokens see those after them; "
            f"{_INSTEAD}"
        )
    return Base(name, source, text, "causal", classifier, writes(config))


def writes(config: Any) -> bool:
    """Whether a causal checkpoint has its LM head, which is the embedding's own weights where the two are tied."""
    made = str(next(iter(getattr(config, "architectures", None) or ()), ""))
    tied = bool(getattr(config.get_text_config(), "tie_word_embeddings", False))
    return tied or not made or made.endswith(_LANGUAGE_MODELS)


def _below(name: str, source: Source, settings: dict[str, Any]) -> Base:
    """The model below a folder of adapters, found by the rules of every base model. Raises Refused."""
    pack = read_json(source, PACK)
    if record := (pack or {}).get("base"):
        given, found = str(record.get("name")), below(Path(source.path), record)
    else:
        given = str(settings.get("base_model_name_or_path") or "")
        found = adapted(name, given, settings.get("revision"))
    try:
        base = look_at(given, found, may_be_adapters=False)
    except Refused as error:
        raise Refused(f"base model {name!r} is adapters over {given!r}: {error}") from None
    if settings.get("peft_type") != "LORA":
        raise Refused(
            f"base model {name!r} is adapters of type {settings.get('peft_type')!r}; merge them into {given!r} "
            "(peft's merge_and_unload), or choose LoRA adapters"
        )
    if settings.get("init_lora_weights") not in _LORA_STARTS:
        raise Refused(
            f"base model {name!r} is adapters that changed {given!r} as they began (init_lora_weights "
            f"{settings['init_lora_weights']!r}); merge them first"
        )
    if local_file(source, ADAPTER_WEIGHTS) is None:
        raise Refused(
            f"base model {name!r} is adapters without {ADAPTER_WEIGHTS}; save them as safetensors (peft's default)"
        )
    lora = {key: value for key, value in settings.items() if key in _LORA}
    others = sorted(key for key in settings.keys() - _LORA - _IDLE if settings[key])
    if others:
        raise Refused(
            f"base model {name!r} is adapters with {', '.join(others)}, which aren't known here; merge them into "
            f"{given!r} first (peft's merge_and_unload)"
        )
    saved = [key for key in settings.get("modules_to_save") or () if key not in HEADS]
    return replace(
        base,
        name=name,
        classifier=base.classifier or settings.get("task_type") == "SEQ_CLS",
        caliper=pack or base.caliper,
        adapters=source,
        lora={**lora, "modules_to_save": saved or None},
    )


HEADS = ("score", "classifier")  # what sequence classifiers of transformers call their head


def local_file(source: Source, name: str) -> Path | None:
    """A file of a folder, or of the hub, which is fetched; None where there is none of this name."""
    if source.files is not None and name not in source.files:
        return None
    if Path(source.path).is_dir():
        path = Path(source.path) / name
        return path if path.is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return Path(hf_hub_download(source.path, name, revision=source.revision))
    except EntryNotFoundError:
        return None


def read_json(source: Source, name: str) -> dict[str, Any] | None:
    """A configuration file's object; None where it has none of this name. Raises ValueError and OSError."""
    path = local_file(source, name)
    if path is None:
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"{name} is no JSON object")
    return found


def looked_up(source: Source) -> Source:
    """The source with the names of its files, the hub's commit in the place of a branch or tag: all is of one state.

    A hub that can't be reached is its cache on this machine.
    """
    folder = Path(source.path)
    if folder.is_dir():
        return replace(source, files=frozenset(path.name for path in folder.iterdir()))
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        info = HfApi().model_info(source.path, revision=source.revision, timeout=30)
        return Source(source.path, info.sha, frozenset(file.rfilename for file in info.siblings or ()))
    except (RepositoryNotFoundError, RevisionNotFoundError):
        raise
    except Exception as error:
        try:
            cached = Path(snapshot_download(source.path, revision=source.revision, local_files_only=True))
        except Exception:
            raise error from None
        return Source(source.path, cached.name, frozenset(path.name for path in cached.iterdir()))


def _check_weights(base: Base) -> None:
    """Raises Refused for weights that are pickled alone: reading them could run code."""
    names = base.source.files or frozenset()
    if any(name.endswith(".safetensors") for name in names):
        return
    if any(name.startswith("pytorch_model") for name in names):
        kind = "AutoModelForCausalLM" if base.architecture == "causal" else "AutoModel"
        raise Refused(
            f"base model {base.name!r} has pickled weights alone (pytorch_model.bin), which are never read, as they "
            "can run code; name a revision with model.safetensors (org/name@refs/pr/1), or convert it where you trust "
            f'it: python -c "from transformers import {kind} as M, AutoTokenizer as T; '
            "[k.from_pretrained('MODEL').save_pretrained('FOLDER') for k in (M, T)]\""
        )
