"""Pooled features of responses, encoded once; for a frozen encoder kept on disk between runs.

A cached vector's key is the model's weights (a folder), the exact token ids and which of them are pooled (a row), so
template, tokenizer and truncation are part of it, and nothing stale can be read.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..files import save_tensors
from ..text.sections import Encoded
from .encode import ResponseEncoder
from .reward_model import weights_digest

CACHE_VARIABLE = "CALIPER_CACHE_DIR"


def cache_folder() -> Path:
    """$CALIPER_CACHE_DIR, else caliper below the user's cache folder."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "caliper"


@torch.no_grad()
def embed(
    encoder: ResponseEncoder, rows: Sequence[Encoded], progress: Callable[[int, int], None]
) -> torch.Tensor:
    """Pooled features, in eval mode; `progress(done, total)` after each micro-batch. [N, H] fp32"""
    encoder.model.eval()
    return encoder(rows, progress=progress)[0].float()


def embed_cached(
    encoder: ResponseEncoder, rows: Sequence[Encoded], progress: Callable[[int, int], None]
) -> torch.Tensor:
    """Like embed, reading and adding to the cache. A damaged or unwritable cache costs time, never the run."""
    folder = cache_folder() / "embeddings" / weights_digest(encoder.model.backbone)[:32]
    keys = [_key(row) for row in rows]
    known: dict[bytes, torch.Tensor] = {}
    wanted = set(keys)
    for path in sorted(folder.glob("*.safetensors")):
        try:
            shard = load_file(path)
            names, vectors = shard["keys"].numpy(), shard["vectors"]
        except (OSError, SafetensorError, KeyError):
            path.unlink(missing_ok=True)
            continue
        known.update(
            (name, vector)
            for name, vector in zip((row.tobytes() for row in names), vectors, strict=True)
            if name in wanted
        )
    missing = {key: row for key, row in zip(keys, rows, strict=True) if key not in known}
    if missing:
        fresh = embed(encoder, list(missing.values()), progress).cpu()
        known.update(zip(missing, fresh, strict=True))
        shard_keys = torch.stack([torch.frombuffer(bytearray(key), dtype=torch.uint8) for key in missing])
        shard_name = hashlib.sha256(b"".join(missing)).hexdigest()[:32]
        try:
            save_tensors(folder / f"{shard_name}.safetensors", {"keys": shard_keys, "vectors": fresh}, {})
        except OSError:
            pass  # a full or read-only disk: the embeddings are computed again next time
    progress(len(rows), len(rows))
    return torch.stack([known[key] for key in keys]).to(encoder.device)


def _key(row: Encoded) -> bytes:
    return hashlib.sha256(f"{row.pooled or row.after}:{','.join(map(str, row.ids))}".encode()).digest()
