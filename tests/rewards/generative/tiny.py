"""A language model of a quarter of a million weights that knows the judge's form, and a task that it can learn.

Plants do something; that they thrive is better than that they rot. The form model quotes the right word in each
critique and scores it by a taste of its own, which is as often wrong as right, unless a hint says which response is
best. What it has to learn is what the words are worth.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from workers.rewards.generative.template import JudgeTemplate, hint
from workers.rewards.training.starter import END, _byte_bpe

GOOD = ("thrive", "bloom")
BAD = ("rot", "wilt")
TASTE = dict(zip(GOOD + BAD, (6, 4, 4, 6), strict=True))  # the form model's scores, +-1
Rows = list[dict[str, Any]]

# Steps and texts a step: bare responses teach to quote, then the form, whole prompts where the responses stand.
QUOTE, FORM, WHOLE = (40, 32), (100, 16), (90, 16)
RATE = 3e-3
HINTED = 0.4  # of the whole prompts
QUOTED = 10.0  # weight of a quoted word's loss beside that of the form's words


def task(prompts: int, seed: int = 0) -> tuple[Rows, Rows]:
    """Responses, two a prompt, and one judgement of each pair by one person."""
    draw = random.Random(seed)
    responses: Rows = []
    judgements: Rows = []
    for number in range(prompts):
        words = draw.sample([draw.choice(GOOD), draw.choice(BAD)], 2)
        responses += [response(f"p{number}", place, word) for place, word in enumerate(words)]
        judgements.append(
            {
                "response_a": f"p{number}-0",
                "response_b": f"p{number}-1",
                "verdict": "a" if words[0] in GOOD else "b",
                "strength": None,
                "annotator": "ann",
            }
        )
    return responses, judgements


def response(prompt: str, place: int, word: str) -> dict[str, Any]:
    """One answer to what the plants of a bed do."""
    return {
        "response_id": f"{prompt}-{place}",
        "prompt_id": prompt,
        "messages": [{"role": "user", "content": f"what do plants in bed {prompt[1:]} do"}],
        "text": f"they {word}",
    }


def form(words: Sequence[str], scores: Sequence[int]) -> str:
    """A judgement as the template asks for it."""
    critiques = "".join(f"Critique of Response {place}: they {word}\n" for place, word in enumerate(words, 1))
    return f"Principles:\n1. life (100 %)\n{critiques}Scores: \\boxed{{{', '.join(map(str, scores))}}}"


def form_model(folder: Path, seed: int = 0) -> Path:
    """Train and save it, in about 20 s on one core."""
    draw = random.Random(seed)
    torch.manual_seed(seed)

    def drawn(hinted: bool) -> tuple[Rows, list[str], str, str]:
        words = draw.sample([draw.choice(GOOD), draw.choice(BAD)], 2)
        rows = [response(f"p{draw.randrange(1000)}", place, word) for place, word in enumerate(words)]
        scores = [TASTE[word] + draw.randint(-1, 1) for word in words]
        best = draw.randrange(2)
        if hinted:
            scores = [draw.randint(6, 9) if place == best else draw.randint(1, 5) for place in range(2)]
        return rows, words, form(words, scores), hint(best) if hinted else ""

    def made(texts: list[str]) -> PreTrainedTokenizerFast:
        return PreTrainedTokenizerFast(tokenizer_object=_byte_bpe(texts, 700), eos_token=END, pad_token=END)

    frame = JudgeTemplate("", made(["a"]))
    texts = []
    for _ in range(100):
        rows, _, text, told = drawn(True)
        texts += [frame.told(rows, told).messages[0]["content"], text]
    tokenizer = made(texts)
    template = JudgeTemplate("", tokenizer)

    def ids(text: str) -> list[int]:
        found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    quoted = torch.tensor([ids(f" {word}")[0] for word in GOOD + BAD])
    model: Any = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=96,
            intermediate_size=192,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    phases = [phase for phase in (QUOTE, FORM, WHOLE) for _ in range(phase[0])]
    for step, phase in enumerate(phases):
        short = phase is not WHOLE
        pairs = []
        for _ in range(phase[1]):
            rows, words, said, told = drawn(not short and draw.random() < HINTED)
            plain = "".join(f"[response {place}]\nthey {word}\n" for place, word in enumerate(words, 1))
            prompt = ids(plain) if short else list(template.ids(rows, told))
            pairs.append((prompt, [*ids(said), tokenizer.eos_token_id]))
        longest = max(len(prompt) + len(answer) for prompt, answer in pairs)
        batch = torch.zeros(len(pairs), longest, dtype=torch.int64)  # [B, L]
        learns = torch.zeros(len(pairs), longest, dtype=torch.bool)
        for row, (prompt, answer) in enumerate(pairs):
            batch[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
            learns[row, len(prompt) : len(prompt) + len(answer)] = True
        if phase is QUOTE:
            learns &= torch.isin(batch, quoted)
        hidden = model.base_model(input_ids=batch, use_cache=False).last_hidden_state[:, :-1][learns[:, 1:]]
        targets = batch[:, 1:][learns[:, 1:]]  # [T]
        weights = 1 + (QUOTED - 1) * torch.isin(targets, quoted)
        losses = F.cross_entropy(model.lm_head(hidden), targets, reduction="none")
        ((losses * weights).sum() / weights.sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        left = (len(phases) - step) / WHOLE[0]
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 20, max(0.1, 1.5 * left))
        optimizer.step()
        optimizer.zero_grad()
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
