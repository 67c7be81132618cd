"""A reward model on a text encoder: the mean over the encoder's last hidden states, and a head on it.

The mean is over the whole text, or (`pooled` "response") over the tokens of type 1, which are the response's.

This file travels with every encoder that Caliper exports and needs torch and transformers alone:

    AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)

`logits` are the reward [B, 1], or one logit for each of the ratings 1 to 9 [B, 9]. transformers' own
sequence classifiers read the first token instead of the mean, so none of them can hold this model.
"""

from typing import Any

import torch
import torch.nn as nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput


class CaliperRewardConfig(PretrainedConfig):
    """`backbone` is the encoder's own configuration; `head_hidden` the width of the head's hidden layer, or 0;
    `pooled` what the mean is over, "text" or "response"."""

    model_type = "caliper_reward"

    def __init__(
        self,
        backbone: dict[str, Any] | None = None,
        head_hidden: int = 0,
        pooled: str = "text",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.backbone = backbone or {}
        self.head_hidden = head_hidden
        self.pooled = pooled


class CaliperRewardModel(PreTrainedModel):
    config_class = CaliperRewardConfig
    base_model_prefix = "backbone"
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    def __init__(self, config: CaliperRewardConfig) -> None:
        super().__init__(config)
        encoder = AutoConfig.for_model(**config.backbone)
        self.backbone = AutoModel.from_config(encoder)
        width, outputs = int(encoder.hidden_size), int(config.num_labels or 1)
        if config.head_hidden:
            self.head: nn.Module = nn.Sequential(
                nn.LayerNorm(width),
                nn.Linear(width, config.head_hidden),
                nn.GELU(),
                nn.Dropout(0.2),
                nn.Linear(config.head_hidden, outputs),
            )
        else:
            self.head = nn.Linear(width, outputs)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        **unused: Any,
    ) -> SequenceClassifierOutput:
        """input_ids, attention_mask, token_type_ids [B, L] -> logits [B, num_labels].

        The tokenizer of this folder gives token types; they say what is pooled and don't reach the encoder.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        pooled_mask = attention_mask
        if self.config.pooled == "response":
            if token_type_ids is None:
                raise ValueError(
                    "token_type_ids are needed: pass on all that this folder's tokenizer returns"
                )
            pooled_mask = attention_mask * token_type_ids
        hidden = self.backbone(
            input_ids=input_ids, attention_mask=attention_mask
        ).last_hidden_state  # [B, L, H]
        mask = pooled_mask.to(hidden.dtype).unsqueeze(2)
        pooled = (hidden * mask).sum(1) / mask.sum(1).clamp_min(1)  # [B, H]
        return SequenceClassifierOutput(logits=self.head(pooled))
