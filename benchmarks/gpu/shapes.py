"""Shapes of real models, random words in real lengths, and a tokenizer for them."""

from __future__ import annotations

import random
from typing import Any

from benchmarks.datasets import load_hh_rlhf, load_qa_feedback

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": 4096,
        "tie_word_embeddings": True,
    },
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
TUNING = {"tiny": "tuned", "0.5b": "tuned", "7b": "lora"}
BUDGET = {"tiny": 1024, "0.5b": 32768, "7b": 8192}  # tokens of distinct responses per step
WORDS = 4000


def texts(
    lengths: str, wanted_tokens: int, max_length: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Responses and judgements of random words, until there are `wanted_tokens` in distinct responses.

    synthetic: four answers to a prompt, all six pairs; prompts of about 250 words and answers of about 200, both
    log-normal (sigma .9 and .6), which is what chat data look like.
    """
    draw = random.Random(0)
    responses: list[dict[str, Any]] = []
    judgements: list[dict[str, Any]] = []

    def words(count: int) -> str:
        return " ".join(f"w{draw.randrange(WORDS)}" for _ in range(max(1, count)))

    if lengths == "synthetic":
        total = 0
        while total < wanted_tokens:
            number = len(responses) // 4
            prompt = min(int(draw.lognormvariate(5.5, 0.9)), max_length // 2)
            messages = [{"role": "user", "content": words(prompt)}]
            for answer in range(4):
                size = min(int(draw.lognormvariate(5.3, 0.6)), max_length // 2 - 64)
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
    rows = (load_qa_feedback if lengths == "qa_feedback" else load_hh_rlhf)()
    prompts: dict[str, list[dict[str, str]]] = {}
    for row in rows.responses:
        if row["prompt_id"] not in prompts:
            prompts[row["prompt_id"]] = [
                {"role": message["role"], "content": words(len(message["content"]) // 4)}
                for message in row["messages"]
            ]
        responses.append({**row, "messages": prompts[row["prompt_id"]], "text": words(len(row["text"]) // 4)})
    judgements = [{**row, "verdict": "a"} for row in rows.judgements if row["verdict"] in ("a", "b")]
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
