"""Texts of a judge for prompts: one protocol, and its samplers for weights that are here.

A chat's text depends on its prompt, its seed and the weights alone, up to rounding, never on what else is sampled
beside it: each has its own random numbers. So a run that was stopped goes on as if it had not been.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F

from ..models.encode import autocast
from ..models.fused import fuse_norms
from ..models.reward_model import layers_of

LOOK = 16  # tokens after which a sampler asks whether to go on
# Tokens (prompts and room for their texts) of one batch, by kind of device; a GPU's memory may hold fewer.
BATCH_TOKENS = {"cpu": 16_384, "cuda": 262_144}
READ_TOKENS = {"cpu": 4_096, "cuda": 32_768}  # of prompts, in one forward pass
CACHE_SHARE = 0.3  # of a GPU's free memory: the cache is copied as it grows
VLLM_CHUNK = 512  # chats between two reports


@dataclass(frozen=True)
class Chat:
    """A prompt for one text. messages: for endpoints; ids: the same as a local model reads it."""

    messages: tuple[Mapping[str, str], ...]
    ids: tuple[int, ...] | None
    seed: int


@dataclass(frozen=True)
class Sampled:
    """A text. finished: the model ended it, rather than max_new_tokens. ids: its own, the end of its turn included
    where it was drawn; None from an endpoint."""

    text: str
    tokens_in: int
    tokens_out: int
    finished: bool
    ids: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Failed:
    """No text, and why."""

    reason: str


@dataclass
class Usage:
    """What has been used so far. cost: in the currency of an endpoint's prices; None where there are none."""

    requests: int = 0
    retries: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float | None = None
    seconds: float = 0.0


Result = Sampled | Failed
# Gets each result with its chat's position, as soon as it is known. It may raise Stopped, which ends the sampling.
Report = Callable[[int, Result], None]


def nothing() -> None:
    """A check that never ends the sampling."""


class Sampler(Protocol):
    """What writes texts for prompts."""

    usage: Usage

    def sample(
        self, chats: Sequence[Chat], *, temperature: float, max_new_tokens: int, progress: Report
    ) -> list[Result]:
        """A result for each chat, in their order."""
        ...


class Shared(NamedTuple):
    """Chats with the same ids, whose prompt is read once: their positions."""

    ids: tuple[int, ...]
    chats: list[int]


class TransformersSampler:
    """Samples from a causal model in length-sorted batches; a prompt is read once for all its samples.

    Random numbers decide by the inverse of the cumulative distribution: one number a token, drawn from the chat's own
    seed. Temperature 0 takes the likeliest token.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        device: torch.device,
        *,
        stop_ids: Sequence[int],
        batch_tokens: int | None = None,
        check: Callable[[], None] = nothing,
    ) -> None:
        """`model`: a causal model with its LM head; `stop_ids` end a text (JudgeTemplate.stop_ids); `check` is called
        every LOOK tokens and may raise."""
        self.model, self.tokenizer, self.device, self.check = model, tokenizer, device, check
        self.stop_ids = torch.tensor(sorted(stop_ids), dtype=torch.int64, device=device)
        self.batch_tokens = batch_tokens or fitting_tokens(model.config, device)
        self.usage = Usage()
        if device.type == "cuda":
            fuse_norms(layers_of(model))  # a token waits for launches

    def sample(
        self, chats: Sequence[Chat], *, temperature: float, max_new_tokens: int, progress: Report
    ) -> list[Result]:
        results: dict[int, Result] = {}
        training = self.model.training
        self.model.eval()
        try:
            for batch in self._batches(chats, max_new_tokens):
                with autocast(self.device):  # once: leaving it forgets the weights that it cast
                    made = self._sample(chats, batch, temperature, max_new_tokens)
                results |= made
                for number, result in made.items():
                    progress(number, result)
        finally:
            self.model.train(training)
        return [results[number] for number in range(len(chats))]

    def _batches(self, chats: Sequence[Chat], max_new_tokens: int) -> Iterator[list[Shared]]:
        """Chats by prompt, the longest first, so that what doesn't fit into memory fails at once."""

        def ids(number: int) -> tuple[int, ...]:
            found = chats[number].ids
            assert found, "a local model needs the ids of a prompt"
            return found

        order = sorted(range(len(chats)), key=lambda number: (-len(ids(number)), ids(number), number))
        batch: list[Shared] = []
        rows = longest = 0
        for prompt, numbers in groupby(order, ids):
            for number in numbers:
                longest = longest or len(prompt)
                if batch and (rows + 1) * (longest + max_new_tokens) > self.batch_tokens:
                    yield batch
                    batch, rows, longest = [], 0, len(prompt)
                if not batch or batch[-1].ids != prompt:
                    batch.append(Shared(prompt, []))
                batch[-1].chats.append(number)
                rows += 1
        if batch:
            yield batch

    @torch.no_grad()
    def _sample(
        self,
        chats: Sequence[Chat],
        batch: Sequence[Shared],
        temperature: float,
        max_new_tokens: int,
    ) -> dict[int, Result]:
        rows = [(number, len(prompt.ids)) for prompt in batch for number in prompt.chats]
        draws = torch.stack(
            [
                torch.rand(max_new_tokens, generator=torch.Generator().manual_seed(chats[number].seed))
                for number, _ in rows
            ]
        ).to(self.device)  # [R, max_new_tokens]
        logits, cache, mask = self._read(batch)
        tokens = torch.zeros(len(rows), max_new_tokens, dtype=torch.int64, device=self.device)
        lengths = torch.full((len(rows),), max_new_tokens, device=self.device)
        ended = torch.zeros(len(rows), dtype=torch.bool, device=self.device)
        live = torch.arange(len(rows), device=self.device)  # rows that the cache still holds
        for step in range(max_new_tokens):
            if step % LOOK == LOOK - 1:
                self.check()
                left = ~ended[live]
                if not left.any():
                    break
                if left.sum() <= len(live) // 2:
                    kept = left.nonzero().squeeze(1)
                    cache.batch_select_indices(kept)
                    live, mask, logits = live[kept], mask[kept], logits[kept]
            chosen = choose(logits, draws[live, step], temperature)  # [L]
            tokens[live, step] = chosen
            stops = torch.isin(chosen, self.stop_ids) & ~ended[live]
            lengths[live] = torch.where(stops, step, lengths[live])
            ended[live] |= stops
            if step + 1 == max_new_tokens:
                break
            mask = F.pad(mask, (0, 1), value=1)
            places = mask.sum(1, keepdim=True) - 1  # [L, 1]
            out = self.model(
                input_ids=chosen.unsqueeze(1),
                attention_mask=mask,
                position_ids=places,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            logits = out.logits[:, -1]
        results: dict[int, Result] = {}
        texts = zip(rows, tokens.tolist(), lengths.tolist(), ended.tolist(), strict=True)
        for (number, size), row, length, finished in texts:
            text = self.tokenizer.decode(row[:length], skip_special_tokens=True)
            said = tuple(row[: length + finished])
            results[number] = Sampled(text, size, len(said), finished, said)
            self.usage.tokens_in += size
            self.usage.tokens_out += length + finished
        self.usage.requests += len(rows)
        return results

    def _read(self, batch: Sequence[Shared]) -> tuple[torch.Tensor, Any, torch.Tensor]:
        """Logits of the first token, the cache and the mask, a row for each chat. [R, V], [R, T]"""
        longest = max(len(prompt.ids) for prompt in batch)
        ids = torch.zeros(len(batch), longest, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for number, prompt in enumerate(batch):
            ids[number, longest - len(prompt.ids) :] = torch.tensor(prompt.ids)
            mask[number, longest - len(prompt.ids) :] = 1
        ids, mask = ids.to(self.device), mask.to(self.device)
        size = max(1, READ_TOKENS[self.device.type] // longest)  # prompts in one pass
        cache: Any = None
        logits: list[torch.Tensor] = []  # [1, V] of each prompt
        for some_ids, some_mask in zip(ids.split(size), mask.split(size), strict=True):
            self.check()
            out = self.model(
                input_ids=some_ids,
                attention_mask=some_mask,
                position_ids=(some_mask.cumsum(1) - 1).clamp(min=0),
                use_cache=True,
                logits_to_keep=1,
            )
            logits.append(out.logits[:, -1])
            cache = out.past_key_values if cache is None else joined(cache, out.past_key_values)
        counts = torch.tensor([len(prompt.chats) for prompt in batch], device=self.device)
        row = torch.arange(len(batch), device=self.device).repeat_interleave(counts)  # [R]
        if len(row) > len(batch):
            cache.batch_select_indices(row)
        return torch.cat(logits)[row], cache, mask[row]


def fitting_tokens(config: Any, device: torch.device) -> int:
    """Tokens of one batch: what BATCH_TOKENS says, or what a GPU's free memory holds of keys and values in bf16."""
    most = BATCH_TOKENS[device.type]
    if device.type != "cuda":
        return most
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    free -= torch.cuda.memory_allocated(device)
    return min(most, int(CACHE_SHARE * free / (4 * config.num_hidden_layers * heads * width)))


def joined(cache: Any, other: Any) -> Any:
    """The first of two caches of equally long prompts, with the other's rows behind its own."""
    for layer, more in zip(cache.layers, other.layers, strict=True):
        layer.keys = torch.cat([layer.keys, more.keys])
        layer.values = torch.cat([layer.values, more.values])
    return cache


def choose(logits: torch.Tensor, draws: torch.Tensor, temperature: float) -> torch.Tensor:
    """A token for each row, where its number in 0..1 falls in the cumulative distribution. [R, V], [R] -> [R]"""
    if temperature == 0:
        return logits.argmax(-1)
    total = torch.softmax(logits.float() / temperature, -1).double().cumsum(-1)  # [R, V]
    wanted = draws.double().unsqueeze(1) * total[:, -1:]
    return torch.searchsorted(total, wanted, right=True).squeeze(1).clamp(max=logits.shape[1] - 1)


class VLLMSampler:
    """Samples through vLLM from a folder of weights, with adapters over it if there are any."""

    def __init__(
        self,
        folder: str,
        tokenizer: Any,
        *,
        stop_ids: Sequence[int],
        max_length: int,
        adapters: str | None = None,
        rank: int = 16,
        revision: str | None = None,
    ) -> None:
        """`max_length`: tokens of prompt and text; `adapters`: a folder of LoRA weights of this rank."""
        from vllm import LLM
        from vllm.lora.request import LoRARequest

        self.tokenizer, self.stop_ids = tokenizer, list(stop_ids)
        self.adapters = LoRARequest("judge", 1, adapters) if adapters else None
        lora = {"enable_lora": True, "max_lora_rank": rank} if adapters else {}
        self.engine = LLM(
            model=folder,
            revision=revision,
            max_model_len=max_length,
            enable_prefix_caching=True,
            skip_tokenizer_init=True,
            **lora,
        )
        self.usage = Usage()

    def sample(
        self, chats: Sequence[Chat], *, temperature: float, max_new_tokens: int, progress: Report
    ) -> list[Result]:
        from vllm import SamplingParams

        results: list[Result] = []
        for begin in range(0, len(chats), VLLM_CHUNK):
            part = chats[begin : begin + VLLM_CHUNK]
            answers = self.engine.generate(
                [{"prompt_token_ids": list(chat.ids or ())} for chat in part],
                [
                    SamplingParams(
                        temperature=temperature,
                        max_tokens=max_new_tokens,
                        seed=chat.seed,
                        stop_token_ids=self.stop_ids,
                        detokenize=False,
                    )
                    for chat in part
                ],
                lora_request=self.adapters,
                use_tqdm=False,
            )
            for number, answer in enumerate(answers, begin):
                (said,) = answer.outputs
                text = self.tokenizer.decode(said.token_ids, skip_special_tokens=True)
                ids = tuple(said.token_ids)
                size = len(answer.prompt_token_ids)
                results.append(Sampled(text, size, len(ids), said.finish_reason == "stop", ids))
                self.usage.tokens_in += size
                self.usage.tokens_out += len(ids)
                self.usage.requests += 1
                progress(number, results[-1])
        return results


def has_vllm(device: torch.device) -> bool:
    """Whether vLLM can sample here."""
    return device.type == "cuda" and importlib.util.find_spec("vllm") is not None
