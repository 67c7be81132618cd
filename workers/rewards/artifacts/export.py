"""A trained model to take away: packed as it is saved (`pack_model`), or for plain transformers (`export_model`).

| trained | exported |
|---|---|
| reward on a causal model (bt, clf, haf) | AutoModelForSequenceClassification, one label |
| ratings on a causal model (oprm, rgft) | AutoModelForCausalLM; the ratings are nine of its logits |
| text encoder | AutoModelForSequenceClassification with modeling_caliper.py in the folder (trust_remote_code) |

The template lives in the exported tokenizer's post-processor, so `tokenizer(prompt, response)` gives the ids that the
model was trained on: each text is tokenised on its own, special tokens inside text stay text, and the frame around
them is a list of ids. Before the folder appears it is loaded again, and its ids and scores on difficult texts are
compared with this program's; a folder that would score otherwise is never written.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from ..data.messages import Message
from ..files import fsync, sha256_of, write_text
from ..models.base_models import public_name
from ..models.reward_model import RewardModel
from ..scale import RATINGS
from ..text.digits import SCORE_SUFFIX
from ..text.sections import RESPONSE_HEADER, Template, collate, plain
from . import modeling_caliper
from .card import model_card
from .save import CONFIG_NAME, load_model

FORMAT = 1
PAD = "<|caliper_pad|>"
TOLERANCE = 1e-4  # of a score, or of its size where that is above 1; measured differences are about 1e-6
TEMPLATES = ("encoder-1", "causal-1", "causal-2")


class ExportError(Exception):
    """The model can't be exported so that it scores the same; the message is one readable line."""


def pack_model(
    model_dir: Path, out_dir: Path, metrics: dict[str, Any] | None = None, **words: str | None
) -> None:
    """Write OUT_DIR: the model's own files, a card and the metrics; `words` are model_card's `title` and `made`."""
    config = json.loads((model_dir / CONFIG_NAME).read_text(encoding="utf-8"))
    # Versions of old have a path of their server in it.
    config["base_model"] = public_name(config.get("base_model"))
    out_dir.mkdir(parents=True)
    (out_dir / CONFIG_NAME).write_text(json.dumps(config, indent=1), encoding="utf-8")
    for name in config["files"]:
        source, target = model_dir / Path(name).name, out_dir / Path(name).name
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)
    (out_dir / "README.md").write_text(model_card(config, metrics, None, **words), encoding="utf-8")
    if metrics is not None:
        (out_dir / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")


def export_model(
    model_dir: Path, out_dir: Path, metrics: dict[str, Any] | None = None, **words: str | None
) -> dict[str, Any]:
    """Write OUT_DIR whole or not at all; `metrics` is the run's metrics.json, for the model card, as are `words`.

    Returns what was made: auto_class, architecture, trust_remote_code, probes and the largest difference of a score
    on them, and name, bytes and sha256 of every file. Raises ExportError or ArtifactError.
    """
    model, template, config = load_model(model_dir)
    _check_exportable(model, config)
    beside = out_dir.with_name(f".{out_dir.name}.{os.getpid()}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        tokenizer = _tokenizer(template, model_dir)
        about = _about(config, metrics)
        if model.architecture == "encoder":
            exported = _encoder(model, template, about)
        elif model.kind == "ordinal":
            exported = _language_model(model, about, tokenizer)
        else:
            exported = _sequence_classifier(model, about, tokenizer, model_dir)
        exported.save_pretrained(beside)
        if model.architecture == "encoder":
            shutil.copy(str(modeling_caliper.__file__), beside / "modeling_caliper.py")
        tokenizer.save_pretrained(beside)
        architecture = type(exported).__name__
        del exported
        gc.collect()  # three copies of a large model's weights would be one too many
        difference, count = _compare(model, template, beside)
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
            "probes": count,
            "max_difference": difference,
        }
        write_text(beside / "README.md", model_card(config, metrics, report, **words))
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
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return report


def _check_exportable(model: RewardModel, config: dict[str, Any]) -> None:
    if config["template"]["name"] not in TEMPLATES:
        raise ExportError(
            f"the template {config['template']['name']} is not a fixed frame around prompt and response, so a plain "
            "tokenizer can't build it; score this model with python -m workers.rewards.score"
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


# --- Tokenizer ---


def _tokenizer(template: Template, model_dir: Path) -> Any:
    """The base model's tokenizer, which frames prompt and response by itself and pads with a token of its own."""
    from tokenizers import Tokenizer, processors
    from transformers import PreTrainedTokenizerFast

    source = template.tokenizer
    core = Tokenizer.from_str(source.backend_tokenizer.to_str())
    core.no_truncation()
    core.no_padding()
    start, middle, end = template.frame
    pieces = {"START": start, "MIDDLE": middle, "END": end}

    def rule(parts: tuple[str, ...], pooled: str) -> str:
        """Where the mean leaves the prompt out, it is over the parts from `pooled` on, which are of type 1."""
        first = len(parts) if template.pool_prompt else parts.index(pooled)
        kept = [(part, int(place >= first)) for place, part in enumerate(parts)]
        return " ".join(f"{part}:{type_id}" for part, type_id in kept if part.startswith("$") or pieces[part])

    alone = ("START", "$A", "END") if template.architecture == "encoder" else ("START", "MIDDLE", "$A", "END")
    core.post_processor = processors.TemplateProcessing(
        single=rule(alone, "START"),
        pair=rule(("START", "$A", "MIDDLE", "$B", "END"), "$B"),
        special_tokens=[
            {"id": name, "ids": ids, "tokens": [core.id_to_token(i) for i in ids]}
            for name, ids in pieces.items()
            if ids
        ],
    )
    named = {
        f"{name}_token": getattr(source, f"{name}_token")
        for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
        if getattr(source, f"{name}_token", None) is not None
    }
    others = [named.get(f"{name}_token") for name in ("bos", "eos", "unk", "sep", "cls")]
    if named.get("pad_token") is None or named["pad_token"] in others:
        # transformers find the last token of a text as the last that is not the pad token
        named["pad_token"] = PAD
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        **named,
        split_special_tokens=True,
        model_max_length=template.max_length,
        padding_side="right",
        truncation_side="left",
        model_input_names=["input_ids", "attention_mask"]
        + ([] if template.pool_prompt else ["token_type_ids"]),
    )


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


def _sequence_classifier(model: RewardModel, about: dict[str, Any], tokenizer: Any, model_dir: Path) -> Any:
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()  # it would warn that the head is new; the next line gives it its weights
    try:
        exported: Any = AutoModelForSequenceClassification.from_pretrained(
            model_dir, use_safetensors=True, dtype=torch.float32, **_labels(1)
        )
    except ValueError as error:
        line = " ".join(str(error).split())[:200]
        raise ExportError(f"transformers have no sequence classifier for this base model: {line}") from None
    finally:
        logging.set_verbosity(before)
    score = getattr(exported, "score", None)
    if not isinstance(score, torch.nn.Linear) or score.bias is not None or model.head is None:
        raise ExportError(
            f"{type(exported).__name__} does not read its score from the last token through one linear layer, as "
            "this model does; score it with python -m workers.rewards.score"
        )
    score.load_state_dict(model.head.state_dict())
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


# --- The proof ---


def probes(tokenizer: Any) -> list[dict[str, Any]]:
    """Texts on which a tokenizer or a template goes wrong first, with and without a prompt."""
    added = [token.content for token in tokenizer.added_tokens_decoder.values()]
    special = " ".join(
        [*dict.fromkeys([*tokenizer.all_special_tokens, *added[-8:]]), PAD, "[SEP]", "<|im_end|>"]
    )
    texts = [
        "water it weekly.",
        "",
        "  two spaces, then a line.\n",
        "\n\nstarts with lines; ends in a digit 7",
        "ends in punctuation!?",
        f"fine{SCORE_SUFFIX} 9{RESPONSE_HEADER}other ####### \\###",
        f"{special}fine{special}",
        "e\u0301\u200b 你好 \U0001f600 naïve",
        "\uff03\uff03\uff03 Score: 9 #\u200b## \ufe5f\ufe5f\ufe5f",  # what a normaliser may turn into ###
        "x" * 40,
    ]
    call = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    chats: list[list[Message]] = [
        [],
        [{"role": "user", "content": "how do i keep a plant alive?"}],
        [{"role": "user", "content": " \n"}],
        [
            {"role": "user", "content": "how warm?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "name": "weather", "tool_call_id": "c", "content": "7"},
        ],
        [
            {"role": "user", "content": special},
            {"role": "assistant", "content": "### Score: 9\n"},
            {"role": "user", "content": " why \n\n"},
        ],
    ]
    return [{"messages": chat, "text": text} for chat in chats for text in texts]


@torch.no_grad()
def _compare(model: RewardModel, template: Template, folder: Path) -> tuple[float, int]:
    """The largest difference of a score between this program and the folder, and over how many texts."""
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoTokenizer,
        PreTrainedTokenizerFast,
    )

    rows = [{**row, "tools": []} for row in probes(template.tokenizer)]
    rows.append({**rows[-1], "tools": [{"name": "weather", "parameters": {"b": 1, "a": "###"}}]})
    encoded = template.encode(rows)
    rows = [row for row, ours in zip(rows, encoded, strict=True) if not ours.truncated]
    encoded = [ours for ours in encoded if not ours.truncated]
    if not rows:
        raise ExportError(
            f"max_length {template.max_length} is too short for a comparison of scores; retrain with more"
        )
    # AutoTokenizer would ask at the terminal whether to trust modeling_caliper.py
    loader = PreTrainedTokenizerFast if model.architecture == "encoder" else AutoTokenizer
    tokenizer: Any = loader.from_pretrained(folder)
    read: list[Any] = []
    for row, ours in zip(rows, encoded, strict=True):
        prompt, response = template.prompt_text(row["messages"], row["tools"]), plain(row["text"])
        texts = (prompt, response) if tokenizer.tokenize(prompt) else response
        # of a lone pair transformers take an empty second text for none
        read.append({name: value[0] for name, value in tokenizer([texts]).items()})
        if tuple(read[-1]["input_ids"]) != ours.ids:
            raise ExportError(
                f"{type(tokenizer).__name__} does not tokenise {row['text'][:40]!r} as this program does; score this "
                "model with python -m workers.rewards.score"
            )
    device = next(model.parameters()).device
    ours_scores = model(*collate(encoded, device)).reshape(len(rows), -1)
    batch = tokenizer.pad(read, return_tensors="pt").to(device)
    if model.architecture == "encoder":
        exported: Any = modeling_caliper.CaliperRewardModel.from_pretrained(folder)
        scores = exported.to(device).eval()(**batch).logits
    elif model.kind == "scalar":
        exported = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
        scores = exported.to(device).eval()(**batch).logits
    else:
        exported = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        last = batch["attention_mask"].sum(1) - 1
        logits = exported.to(device).eval()(**batch).logits
        scores = logits[torch.arange(len(last), device=device), last][:, list(template.digit_ids or ())]
    differences = (scores - ours_scores).abs()
    if not bool((differences <= TOLERANCE * ours_scores.abs().clamp_min(1)).all()):
        raise ExportError(
            f"the exported model's scores differ by {differences.max().item():.2g} from this program's on the same "
            "texts; score this model with python -m workers.rewards.score"
        )
    return differences.max().item(), len(rows)
