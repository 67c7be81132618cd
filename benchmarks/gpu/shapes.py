"""Shapes of real models, random words in chats' lengths, and a tokenizer for them."""

from __future__ import annotations

import random
from typing import Any

TINY: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 4096,
    "tie_word_embeddings": True,
}
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": TINY,
    "tiny-lora": TINY,
    "0.5b": {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    "7b": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        "tie_word_embeddings": False,
    },
}
TUNING = {"tiny": "tuned", "tiny-lora": "lora", "0.5b": "tuned", "7b": "lora"}
TOKENS = {
    "tiny": 40_000,
    "tiny-lora": 40_000,
    "0.5b": 2_000_000,
    "7b": 600_000,
}  # of distinct responses, their prompts included
LONGEST = {"tiny": 128, "tiny-lora": 128, "0.5b": 1024, "7b": 1024}  # tokens of prompt, response and template
WORDS = 4000
FRAME = 24  # tokens that the template may add


def texts(wanted: int, longest: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Responses and judgements of random words, until there are `wanted` tokens in distinct responses.

    Four answers to a prompt, all six pairs. Prompts are log-normal (sigma .9) about a quarter of the longest text,
    answers about two fifths of it (sigma .6), as chats are, and all is cut to fit.
    """
    draw = random.Random(0)
    responses: list[dict[str, Any]] = []
    judgements: list[dict[str, Any]] = []

    def words(count: int) -> str:
        return " ".join(f"w{number}" for number in draw.choices(range(WORDS), k=max(1, count)))

    def length(middle: float, sigma: float) -> int:
        return int(middle * longest * draw.lognormvariate(0, sigma))

    total = 0
    while total < wanted:
        number = len(responses) // 4
        prompt = min(length(0.25, 0.9), longest // 2)
        messages = [{"role": "user", "content": words(prompt)}]
        for answer in range(4):
            size = min(length(0.4, 0.6), longest - prompt - FRAME)
            total += prompt + size
            responses.append(
                {
                    "response_id": f"{number}-{answer}",
                    "prompt_id": str(number),
                    "messages": messages,
                    "text": words(size),
                }
            )
        judgements.extend(
            {"response_a": f"{number}-{a}", "response_b": f"{number}-{b}", "verdict": "a"}
            for a in range(4)
            for b in range(a + 1, 4)
        )
    return responses, judgements


def tokenizer() -> Any:
    """A token per word w0, w1, ..., and the template's words: a text of n words has n tokens."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = ["<end>", "<unk>", *"#:.[]", "User", "Assistant", "System", "Response", "Score", "a"]
    names += [f"w{number}" for number in range(WORDS)]
    core = Tokenizer(models.WordLevel({name: place for place, name in enumerate(names)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\s+"), "removed"), pre_tokenizers.Punctuation()]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", eos_token="<end>", pad_token="<end>"
    )
