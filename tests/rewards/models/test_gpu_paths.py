"""What only a GPU does, reached on a CPU: by autocast, a kernel that stands in and notes what it gets, or a device by
name alone."""

from pathlib import Path

import pytest
import torch

from workers.rewards.models import load


def test_a_bf16_model_is_scored_in_bf16_on_a_gpu_and_in_fp32_on_a_cpu(
    tiny_lm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load.load_backbone("lm", str(tiny_lm), "causal").bfloat16().save_pretrained(tmp_path)  # type: ignore[operator]
    dtypes = []
    for device in ("cpu", "cuda"):
        monkeypatch.setattr(load, "default_device", lambda device=device: torch.device(device))
        model = load.load_backbone("lm", str(tmp_path), "causal")
        dtypes.append({parameter.dtype for parameter in model.parameters()})
    assert dtypes == [{torch.float32}, {torch.bfloat16}]
