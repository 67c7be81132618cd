"""A trained model to take away: packed as it is saved (`pack_model`), or for plain transformers (`export_model`).

| trained | exported |
|---|---|
| reward on a causal model (bt, clf, haf) | AutoModelForSequenceClassification, one label |
| ratings on a causal model (oprm, rgft) | AutoModelForCausalLM; the ratings are nine of its logits |
| text encoder | AutoModelForSequenceClassification with modeling_caliper.py in the folder (trust_remote_code) |

The tokenizer frames prompt and response as the model was trained to read them (exported_tokenizer.py). Before the
folder appears it is loaded again, and its ids and scores on difficult texts are compared with this program's
(proof.py); a folder that would score otherwise is never written.
"""

from __future__ import annotations

import copy
import gc
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from ..files import fsync, link_or_copy, sha256_of, write_text
from ..models.base_models import LINK, hub_id, public_name
from ..models.reward_model import RewardModel
from ..scale import RATINGS
from ..text.sections import Template
from . import modeling_caliper
from .adapters import pack_base
from .card import model_card
from .exported_tokenizer import exported_tokenizer, save_tokenizer, without_chat_template
from .proof import REMEDY, ExportError, prove
from .save import CONFIG_NAME, load_model

FORMAT = 1
TEMPLATES = ("encoder-1", "causal-1", "causal-2", "chat-1")


def pack_model(
    model_dir: Path, out_dir: Path, metrics: dict[str, Any] | None = None, **words: str | None
) -> None:
    """Write OUT_DIR: the model's own files, a card and the metrics; `words` are model_card's `title` and `made`.

    Adapters over a base model that is on no hub take it along as OUT_DIR/base. Raises ArtifactError where it is gone.
    """
    config = json.loads((model_dir / CONFIG_NAME).read_text(encoding="utf-8"))
    # Versions of old have a path of their server in it.
    config["base_model"] = public_name(config.get("base_model"))
    out_dir.mkdir(parents=True)
    (out_dir / CONFIG_NAME).write_text(json.dumps(config, indent=1), encoding="utf-8")
    for name in config["files"]:
        link_or_copy(model_dir / Path(name).name, out_dir / Path(name).name)
    if (record := config.get("base")) is not None and hub_id(record["name"]) is None:
        pack_base(model_dir, record, out_dir / LINK)
    (out_dir / "README.md").write_text(model_card(config, metrics, None, **words), encoding="utf-8")
    if metrics is not None:
        (out_dir / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")


def export_model(
    model_dir: Path, out_dir: Path, metrics: dict[str, Any] | None = None, **words: str | None
) -> dict[str, Any]:
    """Write OUT_DIR whole or not at all; `metrics` is the run's metrics.json, for the model card, as are `words`.

    Returns what was made: auto_class, architecture, trust_remote_code, probes and the largest difference of a score
    on them, whether the chat template gives the same (`chat`, `plain`, `edges`: see proof.Proof), and name, bytes and
    sha256 of every file. Raises ExportError or ArtifactError.
    """
    model, template, config = load_model(model_dir, merged=True)
    _check_exportable(model, config)
    beside = out_dir.with_name(f".{out_dir.name}.{os.getpid()}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        tokenizer = exported_tokenizer(template)
        about = _about(config, metrics)
        if model.architecture == "encoder":
            exported = _encoder(model, template, about)
        elif model.kind == "ordinal":
            exported = _language_model(model, about, tokenizer)
        else:
            exported = _sequence_classifier(model, about, tokenizer)
        exported.save_pretrained(beside)
        if model.architecture == "encoder":
            shutil.copy(str(modeling_caliper.__file__), beside / "modeling_caliper.py")
        save_tokenizer(tokenizer, template, beside)
        architecture = type(exported).__name__
        del exported
        gc.collect()  # three copies of a large model's weights would be one too many
        proof = prove(model, template, beside)
        if not proof.chat:
            without_chat_template(beside)
        report = {
            "format": FORMAT,
            "method": config["method"],
            "kind": model.kind,
            "backbone": model.architecture,
            "auto_class": "AutoModelForCausalLM"
            if (model.architecture, model.kind) == ("causal", "ordinal")
            else "AutoModelForSequenceClassification",
            "architecture": architecture,
            "trust_remote_code": model.architecture == "encoder",
            "probes": proof.texts,
            "max_difference": proof.difference,
            "chat": proof.chat,
            "plain": proof.plain,
            "edges": proof.edges,
        }
        write_text(beside / "README.md", model_card(config, metrics, report, **words))
        place(beside, out_dir, report)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return report


def place(beside: Path, out_dir: Path, report: dict[str, Any]) -> None:
    """Put a finished export where it belongs, whole; `report` gets name, bytes and sha256 of its files."""
    report["files"] = {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for path in sorted(beside.iterdir())
    }
    for path in beside.iterdir():
        fsync(path)
    fsync(beside)
    if out_dir.exists():
        shutil.rmtree(out_dir)
    beside.rename(out_dir)
    fsync(out_dir.parent)


def _check_exportable(model: RewardModel, config: dict[str, Any]) -> None:
    if config["template"]["name"] not in TEMPLATES:
        raise ExportError(
            f"the template {config['template']['name']} is not a fixed frame around prompt and response, so a plain "
            f"tokenizer can't build it; {REMEDY}"
        )
    if model.architecture == "causal" and model.head is not None:
        if model.head_hidden:
            raise ExportError(
                f"transformers' sequence classifiers have a linear head, this model's has a hidden layer of "
                f"{model.head_hidden}; retrain with head_hidden 0"
            )
        if getattr(model.head, "bias", None) is not None:
            raise ExportError(
                "transformers' sequence classifiers have no bias, and this model was trained with one by an "
                "earlier version; retrain it"
            )


def _about(config: dict[str, Any], metrics: dict[str, Any] | None) -> dict[str, Any]:
    """What config.json of the export says beyond the architecture."""
    kept = ("method", "kind", "partition", "template", "max_length", "tie", "bad_threshold", "level_cuts")
    run = (metrics or {}).get("config") or {}
    return {
        **{key: config.get(key) for key in kept},
        "temperature": config["temperature"],
        "calibration": config.get("calibration"),
        "base_model": public_name(config.get("base_model")),
        "base_revision": config.get("base_revision"),
        "model_digest": config.get("digest"),
        "snapshot_digest": run.get("snapshot_digest") or None,
    }


# --- The three kinds ---


def _encoder(model: RewardModel, template: Template, about: dict[str, Any]) -> Any:
    backbone: Any = model.backbone
    outputs = RATINGS if model.kind == "ordinal" else 1
    encoder = backbone.config.to_dict()
    config = modeling_caliper.CaliperRewardConfig(
        backbone=encoder,
        head_hidden=model.head_hidden,
        pooled="text" if template.pool_prompt else "response",
        caliper=about,
        # sentence-transformers' CrossEncoder puts a sigmoid on a lone score unless this is said
        sentence_transformers={"activation_fn": "torch.nn.modules.linear.Identity"},
        auto_map={
            "AutoConfig": "modeling_caliper.CaliperRewardConfig",
            "AutoModelForSequenceClassification": "modeling_caliper.CaliperRewardModel",
        },
        **_labels(outputs),
    )
    exported = modeling_caliper.CaliperRewardModel(config)
    weights = {f"backbone.{name}": value for name, value in backbone.state_dict().items()}
    assert model.head is not None
    weights |= {f"head.{name}": value for name, value in model.head.state_dict().items()}
    exported.load_state_dict(weights)
    return exported


def _language_model(model: RewardModel, about: dict[str, Any], tokenizer: Any) -> Any:
    exported: Any = model.backbone
    exported.config.caliper = about
    _make_room(exported, tokenizer)
    return exported


def _sequence_classifier(model: RewardModel, about: dict[str, Any], tokenizer: Any) -> Any:
    """transformers' own class for the backbone's configuration, with the backbone's weights and the head's."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

    backbone: Any = model.backbone
    assert model.head is not None
    config = copy.deepcopy(backbone.config)
    classifiers: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    if type(config) not in classifiers:
        raise ExportError(
            f"transformers have no sequence classifier for a {config.model_type}, this model's base model; {REMEDY}"
        )
    config.update(_labels(1))
    config._attn_implementation = None
    classifier = classifiers[type(config)]
    weights = {f"score.{name}": value for name, value in model.head.state_dict().items()} | {
        f"{classifier.base_model_prefix}.{name}": value
        for name, value in backbone.base_model.state_dict().items()
    }
    exported: Any = classifier.from_pretrained(None, config=config, state_dict=weights, dtype=torch.float32)
    score = getattr(exported, "score", None)
    if not isinstance(score, torch.nn.Linear) or score.bias is not None:
        raise ExportError(
            f"{type(exported).__name__} does not read its score from the last token through one linear layer, as "
            f"this model does; {REMEDY}"
        )
    exported.config.caliper = about
    _make_room(exported, tokenizer)
    return exported


def _labels(outputs: int) -> dict[str, Any]:
    """Without problem_type "regression" transformers' pipeline would put a sigmoid on the reward."""
    names = ["REWARD"] if outputs == 1 else [str(rating) for rating in range(1, outputs + 1)]
    return {
        "num_labels": outputs,
        "id2label": dict(enumerate(names)),
        "label2id": {name: number for number, name in enumerate(names)},
        "problem_type": "regression" if outputs == 1 else "single_label_classification",
    }


def _make_room(exported: Any, tokenizer: Any) -> None:
    """A row of zeros for a new pad token, whose output nothing reads."""
    rows = exported.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        exported.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        with torch.no_grad():
            exported.get_input_embeddings().weight[rows:] = 0
    exported.config.pad_token_id = tokenizer.pad_token_id
    if getattr(exported, "generation_config", None) is not None:
        exported.generation_config.pad_token_id = tokenizer.pad_token_id
