"""The files of a version, for whoever serves it on another machine: names, sizes, checksums, and the bytes."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.core.cache import caches

from webapp.corpus.base_models import base_model_public
from webapp.training.models import ARTIFACT_NAME, ModelVersion
from webapp.training.services import VersionRefused, version_base

BASE = "base"
_INDEX = "model.safetensors.index.json"
_BLOCK = 1024 * 1024


@dataclass(frozen=True)
class ModelFile:
    """One file. `content`: what is sent in place of what lies there, which tells a path of this server."""

    name: str
    path: Path
    size: int
    sha256: str
    content: bytes | None = None


def version_files(version: ModelVersion) -> list[ModelFile]:
    """What a reward server needs of a version: its folder, and below “base/” a base model that is on no hub.

    Its own checksums are those of reward_config.json. Raises VersionRefused where the files are gone.
    """
    artifact = version.artifact
    if version.is_packed or not artifact:
        raise VersionRefused(
            f"The files of {version} are gone from the disk. Choose another version, or train again."
        )
    public = base_model_public(str(artifact.get("base_model")))
    kept = artifact.get("base_model") in (None, public)
    found = [_file(version.path, ARTIFACT_NAME, None if kept else {**artifact, "base_model": public})]
    named = artifact.get("files")
    for name, digest in sorted(named.items() if isinstance(named, dict) else ()):
        path = version.path / name
        if Path(name).name == name and path.is_file():
            found.append(ModelFile(name, path, path.stat().st_size, str(digest)))
    if (base := version_base(version)) is not None:
        try:
            found += _base_files(base)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise VersionRefused(
                f"The base model below {version} can't be read. Put its files back."
            ) from None
    return found


def _base_files(folder: Path) -> list[ModelFile]:
    """config.json and the weights, as transformers load them."""
    weights = ["model.safetensors"]
    if (folder / _INDEX).is_file():
        index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
        weights = [_INDEX, *sorted(set(index["weight_map"].values()))]
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    plain = {name: value for name, value in config.items() if name != "_name_or_path"}
    found = [_file(folder, "config.json", plain, below=BASE)]
    return found + [_file(folder, name, below=BASE) for name in weights if Path(name).name == name]


def _file(folder: Path, name: str, content: dict[str, Any] | None = None, *, below: str = "") -> ModelFile:
    path = folder / name
    shown = f"{below}/{name}" if below else name
    if content is not None:
        data = json.dumps(content, indent=1).encode()
        return ModelFile(shown, path, len(data), hashlib.sha256(data).hexdigest(), data)
    return ModelFile(shown, path, path.stat().st_size, _checksum(path))


def _checksum(path: Path) -> str:
    """sha256 of a file, worked out once a process while the file stays the same."""
    stat = path.stat()
    key = f"sha256:{hashlib.sha256(str(path).encode()).hexdigest()}:{stat.st_size}:{stat.st_mtime_ns}"
    found: str | None = caches["local"].get(key)
    if found is None:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
        found = digest.hexdigest()
        caches["local"].set(key, found, None)
    return found
