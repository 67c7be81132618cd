"""On an accelerator: the packed row with its varlen kernel gives the scores of one text at a time.

Runs without Django too, where only workers.rewards is installed:
    python -m pytest -p no:cacheprovider --confcutdir tests/rewards tests/rewards/models/test_gpu.py
"""

from typing import Any

import pytest
import torch

from workers.rewards.models import attention
from workers.rewards.models.encode import ResponseEncoder
from workers.rewards.models.reward_model import RewardModel
from workers.rewards.text.sections import Encoded

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]
FAMILIES = {
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM"),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM"),
    "llama": ("LlamaConfig", "LlamaForCausalLM"),
    "mistral": ("MistralConfig", "MistralForCausalLM"),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_fully_tuned_models_take_the_varlen_kernel(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    config_type, model_type = FAMILIES[name]
    torch.manual_seed(0)
    config = getattr(transformers, config_type)(
        vocab_size=200,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=256,
        attn_implementation=attention.ATTENTION,
    )
    backbone = getattr(transformers, model_type)(config)
    model = RewardModel(backbone, architecture="causal", kind="scalar", head_hidden=0).cuda().eval()
    draw = torch.Generator().manual_seed(0)
    prompt = torch.randint(1, 200, (30,), generator=draw).tolist()
    rows = []
    for size in (5, 17, 40, 80):
        ids = (*prompt, *torch.randint(1, 200, (size,), generator=draw).tolist())
        rows.append(Encoded(ids=tuple(ids), start=len(prompt), stop=len(ids), truncated=False))

    kernels: list[torch.dtype] = []
    chosen = attention._varlen()
    assert chosen is not None, "this PyTorch has no varlen kernel, nor is flash-attn installed"

    def counted(*arguments: Any) -> torch.Tensor:
        kernels.append(arguments[0].dtype)
        return chosen.run(*arguments)

    monkeypatch.setattr(attention, "_varlen", lambda: attention.Kernel(chosen.name, counted))
    device = torch.device("cuda")
    encoder = ResponseEncoder(model, device, 4096, longest=256, packing="auto")
    assert encoder.packed
    with torch.no_grad():
        together = encoder.scores(rows)[0]
        assert set(kernels) == {torch.bfloat16}
        single = torch.cat([encoder.scores([row])[0] for row in rows])
    torch.testing.assert_close(together, single, rtol=0.03, atol=0.01)
