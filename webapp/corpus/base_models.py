"""What may be named as a base model, and under which name it is kept.

A name is never a path on the server. With a path an admin of one project could train from another project's model and
download it, and error messages would tell what is on the disk. The worker checks the same rules again before a
training, and so does the training process itself.
"""

import json
import os
import re
from pathlib import Path

from django.conf import settings

from webapp.corpus.options import Method, RunRefused

STARTER = "starter"
"""The causal language model that a worker makes from the project's own texts."""

PACKAGED = "all-MiniLM-L6-v2"
FOLDER = "folder:"

# Neither "." nor ".." is a part, and no part begins like an option or a hidden file.
_PART = r"[A-Za-z0-9_][\w.+-]*"
_NAMES = (
    re.compile(rf"{_PART}/{_PART}(@{_PART}(/{_PART})*)?", re.ASCII),  # a hub id, with or without a revision
    re.compile(rf"{FOLDER}{_PART}(/{_PART})*", re.ASCII),
    re.compile(rf"version:({'|'.join(Method.values)})-[1-9]\d{{0,8}}", re.ASCII),
)
_VERSION = re.compile(r"version:(\w+)-(\d+)", re.ASCII)

# What config.json calls architectures that read both ways and never generate.
_ENCODER_TYPES = frozenset(
    (
        *(
            "albert",
            "bert",
            "camembert",
            "deberta",
            "deberta-v2",
            "distilbert",
            "electra",
            "modernbert",
            "mpnet",
        ),
        *("nomic_bert", "roberta", "xlm-roberta"),
    )
)

WHAT_TO_NAME = (
    f"Name {PACKAGED}, {STARTER}, a hub id such as org/name or org/name@revision, a folder that the operator offers "
    "(folder:NAME), or one of this project's versions (version:oprm-3)."
)
# Word for word the same whether a path, a folder or a version is there or not.
REFUSAL = f"No such base model may be used here. {WHAT_TO_NAME}"
# Names that the choices show; an operator's folder with more is better browsed elsewhere.
MOST_CHOICES = 100


def base_model_named(given: str) -> str:
    """The name under which a base model that a person typed is kept. Raises RunRefused.

    A path below a folder of CALIPER_BASE_MODEL_DIRS becomes folder:NAME. Whether a project has the version is for
    webapp.training to say.
    """
    name = given.strip()
    if os.path.isabs(name):
        name = _folder_name(Path(name)) or ""
    if name not in (STARTER, PACKAGED) and not any(form.fullmatch(name) for form in _NAMES):
        raise RunRefused(REFUSAL, "base_model")
    if name.startswith(FOLDER) and base_model_folder(name) is None:
        raise RunRefused(REFUSAL, "base_model")
    return name


def base_model_folder(name: str) -> Path | None:
    """Where folder:NAME lies, symlinks resolved; None unless it is a model folder below one that the operator lists."""
    for root in settings.BASE_MODEL_DIRS:
        path = (root / name.removeprefix(FOLDER)).resolve()
        if _allowed(path, root.resolve()) and (path / "config.json").is_file():
            return path
    return None


def folder_backbone(folder: Path) -> str | None:
    """ "encoder" or "causal" of a model folder by its config.json; None where that does not say."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        names = [str(name) for name in config.get("architectures") or ()]
        kind = str(config.get("model_type"))
    except (OSError, ValueError, AttributeError, TypeError):
        return None
    if any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names):
        return "causal"
    return "encoder" if kind in _ENCODER_TYPES else None


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


def base_model_choices() -> list[str]:
    """Names to offer: the packaged encoder, the starter and the operator's folders."""
    found: set[str] = set()
    for root in settings.BASE_MODEL_DIRS:
        for config in [*root.glob("*/config.json"), *root.glob("*/*/config.json")]:
            if (name := _folder_name(config.parent)) is not None:
                found.add(name)
    return [PACKAGED, STARTER, *sorted(found)[:MOST_CHOICES]]


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
