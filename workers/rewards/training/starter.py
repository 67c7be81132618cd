"""A tiny causal language model from a project's own texts.

It lets ratings be read from digits, and HaF-RM and LoRA run, where no model hub is reachable. It has seen a few
hundred texts for half a minute and knows next to nothing: no figure measured with it says how good a method is.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from ..config import Refused
from ..data.messages import spoken
from ..models.packing import micro_batches
from ..text.digits import SCORE_SUFFIX
from ..text.sections import RESPONSE_HEADER, Encoded, Template, collate

END = "<|endoftext|>"
# How transformers splits text for every Qwen2 model, each digit by itself; a loaded starter must split as it learnt.
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MAX_LENGTH = 256
BATCH_TOKENS = 2048


def build_starter_lm(
    texts: Sequence[dict[str, Any]],
    out_dir: Path,
    *,
    hidden_size: int = 192,
    layers: int = 4,
    vocabulary: int = 4096,
    epochs: int = 3,
    seconds: float = 30.0,
    seed: int = 0,
    progress: Callable[[float, float], None] | None = None,
) -> dict[str, float]:
    """Train tokenizer and model on rows with `text` and optional `messages`; save both to `out_dir`.

    Training ends after `epochs` passes or `seconds`, whichever comes first; `progress(done, loss)` gets the share of
    that, 0..1. Returns the parameters, steps, seconds and last loss (nats per token). Raises Refused without texts.
    """
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    rows = [{"messages": [], **row} for row in texts]
    if not any(row["text"].strip() for row in rows):
        raise Refused("there is no text to build a language model from; import some responses first")
    torch.manual_seed(seed)
    contents = [spoken(message) for row in rows for message in row["messages"]]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_byte_bpe([*contents, *(row["text"] for row in rows)], vocabulary),
        eos_token=END,
        pad_token=END,
    )
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=3 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=max(1, hidden_size // 32),
        num_key_value_heads=max(1, hidden_size // 32),
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model: Any = Qwen2ForCausalLM(config)
    template = Template(tokenizer, architecture="causal", ordinal=False, max_length=MAX_LENGTH, policy=True)
    encoded = template.encode(rows)
    batches = micro_batches([len(row) for row in encoded], BATCH_TOKENS)
    report = _fit(model, encoded, batches, epochs=epochs, seconds=seconds, seed=seed, progress=progress)
    shutil.rmtree(out_dir, ignore_errors=True)
    model.eval().save_pretrained(out_dir)
    tokenizer.save_pretrained(out_dir)
    return report | {"parameters": float(sum(value.numel() for value in model.parameters()))}


def _fit(
    model: Any,
    rows: list[Encoded],
    batches: list[list[int]],
    *,
    epochs: int,
    seconds: float,
    seed: int,
    progress: Callable[[float, float], None] | None,
) -> dict[str, float]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01, fused=True)
    order = random.Random(seed)
    started = time.monotonic()
    total, step, loss_value = epochs * len(batches), 0, float("nan")
    model.train()
    for _ in range(epochs):
        for batch in order.sample(batches, len(batches)):
            spent = (time.monotonic() - started) / seconds
            if spent >= 1:
                break
            done = max(step / total, spent)
            for group in optimizer.param_groups:
                group["lr"] = 2e-3 * min(1.0, (step + 1) / 10) * (1 - 0.9 * done)
            ids, lengths, _ = collate([rows[position] for position in batch], torch.device("cpu"))
            real = torch.arange(ids.shape[1]) < lengths.unsqueeze(1)  # [B, L]
            hidden = model.base_model(
                input_ids=ids, attention_mask=real.long(), use_cache=False
            ).last_hidden_state
            predicted = real[:, 1:]
            logits = model.get_output_embeddings()(hidden[:, :-1][predicted])  # [T, V]
            loss = F.cross_entropy(logits, ids[:, 1:][predicted])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step, loss_value = step + 1, loss.item()
            if progress is not None:
                progress(done, loss_value)
    return {"steps": float(step), "seconds": time.monotonic() - started, "loss": loss_value}


def _byte_bpe(texts: Sequence[str], vocabulary: int) -> Any:
    """Byte-level BPE in which every digit is a token of its own, so that ratings can be read."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # the template's own words, often enough to become tokens
    frame = ["### User\n", "### Assistant\n", "### System\n", RESPONSE_HEADER, SCORE_SUFFIX] * 20
    tokenizer.train_from_iterator([*frame, *texts], trainer)
    return tokenizer
