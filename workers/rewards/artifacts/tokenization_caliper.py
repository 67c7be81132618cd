"""The tokenizer of an exported model, for programs that read the score from the last token that attention sees.

OpenRLHF's reward server is one: its texts end in the policy's end token, and it reads there. A model that was taught
to answer at the response's last token (`reads_response` in tokenizer_config.json) would answer anything. So end tokens
at a text's end are hidden from attention. Nothing else differs from the plain tokenizer, which everybody gets who does
not ask for code of the folder's own (trust_remote_code=True): transformers' own classes skip end tokens at the end,
because such a folder pads with them.
"""

from typing import Any

import torch
from transformers import BatchEncoding, PreTrainedTokenizerFast


class CaliperTokenizer(PreTrainedTokenizerFast):
    def __call__(self, *given: Any, **named: Any) -> BatchEncoding:
        """The plain tokenizer's answer, of lists or of tensors, with end tokens at the end out of attention_mask."""
        encoded = super().__call__(*given, **named)
        if self.init_kwargs.get("reads_response") and "attention_mask" in encoded:
            encoded["attention_mask"] = _seen(
                encoded["input_ids"], encoded["attention_mask"], self.eos_token_id
            )
        return encoded


def _seen(ids: Any, mask: Any, end: int | None) -> Any:
    """The mask without the end tokens at each text's end. [L] or [B, L], lists or tensors; a text of nothing but end
    tokens keeps them."""
    if isinstance(mask, torch.Tensor):
        rows = [_seen(*row, end) for row in zip(ids.tolist(), mask.tolist(), strict=True)]
        return torch.tensor(rows, dtype=mask.dtype, device=mask.device).reshape(mask.shape)
    if mask and isinstance(mask[0], list):
        return [_seen(*row, end) for row in zip(ids, mask, strict=True)]
    spoken = [place for place, token in enumerate(ids) if mask[place] and token != end]
    return [seen * (place <= spoken[-1]) for place, seen in enumerate(mask)] if spoken else mask
