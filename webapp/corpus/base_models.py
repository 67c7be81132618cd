"""What may be named as a base model, and under which name it is kept.

A name is never a path on the server. With a path an admin of one project could train from another project's model and
download it, and error messages would tell what is on the disk. The worker checks the same rules again before a
training, and so does the training process itself.
"""

import json
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from django.conf import settings

from webapp.corpus.endpoints import endpoint_named, endpoints
from webapp.corpus.model_types import CAUSAL, ENCODER_DECODERS, ENCODERS
from webapp.corpus.options import ENDPOINT, Method, RunRefused

STARTER = "starter"
"""The causal language model that a worker makes from the project's own texts."""

PACKAGED = "all-MiniLM-L6-v2"
FOLDER = "folder:"

# Neither "." nor ".." is a part, and no part begins like an option or a hidden file.
_PART = r"[A-Za-z0-9_][\w.+-]*"
_NAMES = (
    re.compile(rf"{_PART}/{_PART}(@{_PART}(/{_PART})*)?", re.ASCII),  # a hub id, with or without a revision
    re.compile(rf"{FOLDER}{_PART}(/{_PART})*", re.ASCII),
    re.compile(rf"{ENDPOINT}{_PART}", re.ASCII),
    re.compile(rf"version:({'|'.join(Method.values)})-[1-9]\d{{0,8}}", re.ASCII),
)
_VERSION = re.compile(r"version:(\w+)-(\d+)", re.ASCII)

_CONFIGS = ("config.json", "adapter_config.json")
_OTHER_TASKS = ("ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice")
_LANGUAGE_MODELS = (
    "ForCausalLM",
    "LMHeadModel",
    "WithLMHead",
    "GenerationDecoder",
    "ForConditionalGeneration",
)
_INSTEAD = (
    "Choose a text encoder (BERT, DeBERTa, ModernBERT) or a causal language model (Qwen, Llama, Gemma)."
)

WHAT_TO_NAME = (
    f"Name {PACKAGED}, {STARTER}, a hub id such as org/name or org/name@revision, a folder that the operator offers "
    "(folder:NAME), one of this project's versions (version:oprm-3), or for method judge an endpoint (endpoint:NAME)."
)
# Word for word the same whether a path, a folder or a version is there or not.
REFUSAL = f"No such base model may be used here. {WHAT_TO_NAME}"
# Names that the choices show; an operator's folder with more is better browsed elsewhere.
MOST_CHOICES = 100


def base_model_named(given: str) -> str:
    """The name under which a base model that a person typed is kept. Raises RunRefused, also for a folder whose
    config.json says that it can't be one.

    A path below a folder of CALIPER_BASE_MODEL_DIRS becomes folder:NAME. Whether a project has the version is for
    webapp.training to say.
    """
    name = given.strip()
    if os.path.isabs(name):
        name = _folder_name(Path(name)) or ""
    if name not in (STARTER, PACKAGED) and not any(form.fullmatch(name) for form in _NAMES):
        raise RunRefused(REFUSAL, "base_model")
    if name.startswith(FOLDER):
        if (folder := base_model_folder(name)) is None:
            raise RunRefused(REFUSAL, "base_model")
        if refusal := folder_model(folder).refusal:
            raise RunRefused(f"{name} can't be a base model. {refusal}", "base_model")
    if name.startswith(ENDPOINT) and endpoint_named(name) is None:
        raise RunRefused(REFUSAL, "base_model")
    return name


def endpoint_refusal(method: str, name: str) -> str:
    """Why a method can't have this base model where it is an endpoint; empty for all others."""
    if not name.startswith(ENDPOINT) or method == Method.JUDGE:
        return ""
    return (
        f"{name} is an endpoint, which can be asked but not trained. Choose the method {Method.JUDGE.label}, or for "
        f"{Method(method).label} a base model with weights."
    )


def base_model_folder(name: str) -> Path | None:
    """Where folder:NAME lies, symlinks resolved; None unless it is a model folder below one that the operator lists."""
    for root in settings.BASE_MODEL_DIRS:
        path = (root / name.removeprefix(FOLDER)).resolve()
        if _allowed(path, root.resolve()) and any((path / name).is_file() for name in _CONFIGS):
            return path
    return None


@dataclass(frozen=True)
class FolderModel:
    """What a model folder is by its config.json, as far as that tells without transformers.

    `backbone` "encoder", "causal" or None where only a worker can say; `writes`: a causal one may have its LM head;
    `refusal`: why it can be no base model. workers/rewards/models/kinds.py has the last word.
    """

    backbone: str | None = None
    writes: bool = True
    refusal: str = ""


def folder_model(folder: Path) -> FolderModel:
    """What a base model's folder holds."""
    pack = _json(folder / "reward_config.json") or {}
    if (adapters := _json(folder / "adapter_config.json")) is not None:
        # a version in Caliper's format has its base model with it, unless that is on the hub
        packed_along = "base" in pack and (folder / "base" / "config.json").is_file()
        found = folder_model(folder / "base") if packed_along else _adapters(adapters)
        return replace(found, backbone=pack.get("backbone", found.backbone))
    config = _json(folder / "config.json")
    if config is None:
        return FolderModel()
    if config.get("model_type") == "caliper_reward":
        return FolderModel("encoder")
    found = _by_config(config)
    names = {path.name for path in folder.iterdir()}
    if not found.refusal and "pytorch_model.bin" in names and "model.safetensors" not in names:
        return FolderModel(
            refusal="Its weights are pickled (pytorch_model.bin), which are never read, as they can run code. Save it "
            "as safetensors (save_pretrained of a current transformers)."
        )
    return found


def _json(path: Path) -> dict[str, Any] | None:
    """A configuration's object; None where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _adapters(settings: dict[str, Any]) -> FolderModel:
    below = str(settings.get("base_model_name_or_path"))
    if not _NAMES[0].fullmatch(below):
        return FolderModel(
            refusal="These are adapters over a model that adapter_config.json does not name by a hub id. Merge them "
            "into it (peft's merge_and_unload)."
        )
    if settings.get("peft_type") != "LORA":
        return FolderModel(
            refusal=f"These are adapters of type {settings.get('peft_type')} over {below}. Merge them into it (peft's "
            "merge_and_unload), or choose LoRA adapters."
        )
    return FolderModel()


def _by_config(config: dict[str, Any]) -> FolderModel:
    """By transformers' tables of model types, whatever head the checkpoint has."""
    made = str(next(iter(config.get("architectures") or ()), ""))
    text = config.get("text_config")
    text = text if isinstance(text, dict) else config
    kind, whole = str(text.get("model_type")), str(config.get("model_type"))
    shown = made or whole
    if config.get("is_encoder_decoder") or whole in ENCODER_DECODERS:
        return FolderModel(refusal=f"It is an encoder-decoder ({shown}). {_INSTEAD}")
    senses = any(config.get(key) for key in ("vision_config", "audio_config"))
    if senses and (text is config or kind not in CAUSAL):
        return FolderModel(refusal=f"It also reads images or sound ({shown}). {_INSTEAD}")
    if config.get("quantization_config"):
        return FolderModel(
            refusal="It is quantised, and its weights can't be trained. Choose the one that it was made from."
        )
    if made.endswith(_OTHER_TASKS):
        return FolderModel(
            refusal=f"It was made for another task ({made}). Choose the model that it was made from."
        )
    classifier = made.endswith("ForSequenceClassification")
    # transformers leave two labels out, which are their default
    labels = len(config["id2label"]) if config.get("id2label") else config.get("num_labels", 2)
    if classifier and labels != 1:
        return FolderModel(
            refusal=f"It is a classifier of {labels} labels ({made}), not a reward model, which has one. Choose the "
            "model that it was made from."
        )
    if kind in ENCODERS and not text.get("is_decoder"):
        return FolderModel("encoder")
    if kind not in CAUSAL and kind not in ENCODERS:
        return FolderModel()
    if text.get("use_bidirectional_attention"):
        return FolderModel(
            refusal=f"It is of a causal architecture, but its tokens see those after them ({shown}). {_INSTEAD}"
        )
    # what is not said has the architecture's default, which a worker knows
    untied = text.get("tie_word_embeddings", config.get("tie_word_embeddings")) is False
    return FolderModel("causal", writes=not (untied and made and not made.endswith(_LANGUAGE_MODELS)))


def base_model_public(name: object) -> str:
    """A stored name as a page, a card or a file may show it: of a path, which older versions took, nothing is told."""
    text = str(name)
    if text in (STARTER, PACKAGED) or any(form.fullmatch(text) for form in _NAMES):
        return text
    return "a local folder"


def version_named(name: str) -> tuple[str, int] | None:
    """Method and number of version:METHOD-NUMBER; None for other names."""
    found = _VERSION.fullmatch(name)
    return (found[1], int(found[2])) if found else None


def base_model_choices(*, judges: bool = True) -> list[str]:
    """Names to offer: the packaged encoder, the starter, the operator's folders, and for `judges` the endpoints."""
    found: set[str] = set()
    for root in settings.BASE_MODEL_DIRS:
        for config in [
            path for name in _CONFIGS for depth in ("*", "*/*") for path in root.glob(f"{depth}/{name}")
        ]:
            if (name := _folder_name(config.parent)) is not None:
                found.add(name)
    served = [each.name for each in endpoints()] if judges else []
    return [PACKAGED, STARTER, *sorted(found)[:MOST_CHOICES], *served]


def _folder_name(path: Path) -> str | None:
    resolved = path.resolve()
    for root in settings.BASE_MODEL_DIRS:
        if _allowed(resolved, root.resolve()):
            return f"{FOLDER}{resolved.relative_to(root.resolve()).as_posix()}"
    return None


def _allowed(path: Path, root: Path) -> bool:
    """Below the operator's folder, and in no case in the data folder, where the projects' own models lie."""
    data = settings.DATA_DIR.resolve()
    return path != root and path.is_relative_to(root) and not path.is_relative_to(data)
