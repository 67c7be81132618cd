"""Texts that somebody tries a model on (webapp.ratings.trying): scored here, by models that stay in memory."""

import gc
import logging
import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from webapp.corpus.options import GENERATIVE
from webapp.jobs import JobFailed
from webapp.paths import without_paths
from webapp.ratings import trying
from webapp.training.models import ModelVersion
from workers.bases import base_linked

if TYPE_CHECKING:
    from workers.rewards.models.reward_model import RewardModel
    from workers.rewards.text.sections import Template

logger = logging.getLogger(__name__)

KEPT_MODELS = 2
_kept: "OrderedDict[str, tuple[RewardModel, Template]]" = OrderedDict()
"""By the digest of the model's folder, the one used last at the end."""

# Then their memory, perhaps a GPU's, is a training's.
IDLE_SECONDS = 600.0
_busy = threading.Lock()
_rest: threading.Timer | None = None


def answer(token: str) -> None:
    """Score what was asked under the token and leave the answer, or why there is none; done if it has run out."""
    asked = trying.trial_take(token)
    if asked is None:
        logger.info("a trial has run out, or was taken before; this message leaves")
        return
    try:
        with _busy:
            rows = _scored(asked)
    except Exception as error:
        logger.exception("a trial failed")
        trying.trial_answer(token, error=_words(error))
    else:
        trying.trial_answer(token, rows=rows)
    _forget_later()


def _forget_later() -> None:
    """Let the models go once nobody has asked for a while."""
    global _rest
    if _rest is not None:
        _rest.cancel()
    _rest = threading.Timer(IDLE_SECONDS, forget)
    _rest.daemon = True
    _rest.start()


def forget() -> None:
    """Keep no model in memory any more."""
    import torch

    with _busy:
        _kept.clear()
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def _scored(asked: dict[str, Any]) -> list[dict[str, Any]]:
    from workers.rewards.score import score_and_claim

    version = ModelVersion.objects.select_related("run", "project").get(pk=asked["version"])
    if version.method in GENERATIVE:
        raise JobFailed(
            "A generative model writes several critiques of each text, which takes longer than this page waits. Ask it "
            "on the worker's machine: python -m workers.rewards.score MODEL_DIR RESPONSES."
        )
    base_linked(version)
    model, template = loaded(version.path)
    responses = [
        {"response_id": str(number), "messages": asked["messages"], "tools": [], "text": text}
        for number, text in enumerate(asked["texts"])
    ]
    return score_and_claim(model, template, responses)


def loaded(folder: Path) -> "tuple[RewardModel, Template]":
    """The model and template in a folder, from memory where the same files were loaded before. Raises ArtifactError."""
    from workers.rewards.artifacts.save import load_model, read_config

    digest = str(read_config(folder)["digest"])
    if digest not in _kept:
        while len(_kept) >= KEPT_MODELS:
            _kept.popitem(last=False)
        model, template, _ = load_model(folder)
        _kept[digest] = model, template
    _kept.move_to_end(digest)
    return _kept[digest]


def _words(error: Exception) -> str:
    """What the page says: of a damaged folder which file, of a base model that it is gone, of everything else its kind
    alone (texts may be in it)."""
    from workers.rewards.artifacts.save import ArtifactError

    if isinstance(error, (ArtifactError, JobFailed)):
        return without_paths(str(error))
    return f"The worker failed on these texts ({type(error).__name__}); its log says more."
