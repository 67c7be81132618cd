"""Benchmarks of reward models, read to one form: a prompt, its responses, what each is worth, and what is compared.

Every row is read as it stands, or refused by file, row, field and remedy. The format is told by the columns.

| format | columns | source |
|---|---|---|
| rewardbench | prompt, chosen, rejected, chosen_model, rejected_model, subset | arXiv 2403.13787 |
| rewardbench2 | prompt, chosen [..], rejected [..], num_correct, subset, id | arXiv 2506.01937 |
| rmbench | prompt, chosen [3], rejected [3], domain | arXiv 2410.16184 |
| rmb | conversation_input, category_path, and bon_best and loser_list, or chosen and reject | arXiv 2410.09893 |
| judgebench | question, response_A, response_B, label, source | arXiv 2410.12784 |
| ppe_correctness | prompt, response_1 .. response_k, scores (sampled_conflict_pairs) | arXiv 2410.14872 |
| ppe_human | prompt, response_1, response_2, winner (language, hard_prompt ...) | arXiv 2410.14872 |
| best_of_n | prompt, responses [..], scores [..] | ours |
| preference | chosen, rejected, and perhaps prompt: TRL, hh-rlhf, UltraFeedback | |
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .messages import Message, checked, spoken
from .responses import BadInput, without_surrogates
from .tables import rows_of

MAX_TEXT = 256 * 1024  # characters
MAX_RESPONSES = 1024  # of one item
MAX_REFUSED = 10_000
MAX_NUMBER = 1e100  # what a response may be worth

Row = dict[str, Any]
Pair = tuple[int, int]

FORMATS = {
    "rewardbench": "RewardBench",
    "rewardbench2": "RewardBench 2",
    "rmbench": "RM-Bench",
    "rmb": "RMB",
    "judgebench": "JudgeBench",
    "ppe_correctness": "PPE correctness",
    "ppe_human": "PPE human preference",
    "best_of_n": "Best of n",
    "preference": "Preferences",
}


@dataclass(frozen=True)
class Item:
    """One prompt of a benchmark.

    `gold`: what each response is worth, more is better (1 right, 0 wrong where the benchmark knows only that).
    `compare` says what is counted: "pairs" the listed ones (better, worse); "best" whether the first scored is a right
    one; "ties" and "grid" what RewardBench 2 and RM-Bench do with all of them. `subsets`: those it stands in.
    """

    messages: list[Message]
    responses: tuple[str, ...]
    gold: tuple[float, ...]
    compare: str
    subsets: tuple[str, ...] = ()
    pairs: tuple[Pair, ...] = ()
    tools: list[Any] = field(default_factory=list)
    reference: str = ""  # RewardBench 2, ties: "ref:7" or "tied:7"


@dataclass(frozen=True)
class Benchmark:
    """The items of one format. `refused`: rows that can't be read, by file, row, field and remedy; `ties`: pairs that
    people called equal, which say nothing about an order and are left out."""

    format: str
    items: list[Item]
    refused: list[str]
    ties: int


class _PeopleTied(Exception):
    """People called the two equal."""


def read_benchmarks(paths: Sequence[Path]) -> list[Benchmark]:
    """A benchmark for each format among the files; those of one format are one. Raises BadInput."""
    found: dict[str, Benchmark] = {}
    for path in paths:
        name = ""
        for where, row in rows_of(path):
            if not name:
                if isinstance(row, ValueError):
                    raise BadInput(f"{path.name} {where}: {row}")
                name = _format_of(row, path, where)
                benchmark = found.setdefault(name, Benchmark(name, [], [], 0))
            try:
                if isinstance(row, ValueError):
                    raise row
                benchmark.items.append(_item(name, row, path))
            except _PeopleTied:
                benchmark = found[name] = Benchmark(
                    name, benchmark.items, benchmark.refused, benchmark.ties + 1
                )
            except (ValueError, RecursionError) as error:
                said = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
                benchmark.refused.append(f"{path.name} {where}: {said}")
                if len(benchmark.refused) > MAX_REFUSED:
                    raise BadInput(
                        f"{path.name}: more than {MAX_REFUSED:,} rows can't be read; the last: {said}"
                    ) from None
        if not name:
            raise BadInput(f"{path.name} holds no row")
    for benchmark in found.values():
        if not benchmark.items:
            why = benchmark.refused[0] if benchmark.refused else "people called all pairs equal"
            raise BadInput(f"no row of {FORMATS[benchmark.format]} can be used: {why}")
        if not any(item.pairs or item.compare != "pairs" for item in benchmark.items):
            raise BadInput(
                f"the scores of {FORMATS[benchmark.format]} call all responses of each prompt equal"
            )
    return list(found.values())


def _format_of(row: Any, path: Path, where: str) -> str:
    if not isinstance(row, dict):
        raise BadInput(f"{path.name} {where}: it must be an object, a row of a benchmark")
    for name, (needed, _) in _READERS.items():
        if all(any(column in row for column in columns.split("|")) for columns in needed):
            if name in ("rewardbench2", "rmbench") and not _is_texts(row["chosen"]):
                continue
            return name
    raise BadInput(
        f"{path.name} {where}: no benchmark has the columns {', '.join(map(repr, list(row)[:12]))}; give prompt, "
        "chosen and rejected, or the columns of RewardBench, RM-Bench, RMB, JudgeBench or PPE"
    )


def _item(name: str, row: Any, path: Path) -> Item:
    if not isinstance(row, dict):
        raise ValueError("it must be an object, a row of a benchmark")
    item = _READERS[name][1](row, path.name.split(".")[0])
    if not 2 <= len(item.responses) <= MAX_RESPONSES:
        raise ValueError(f"it has {len(item.responses):,} responses; give 2 to {MAX_RESPONSES:,}")
    without_surrogates(list(item.responses), "responses")
    without_surrogates(item.messages, "prompt")
    without_surrogates(list(item.subsets), "the subset")
    for message in item.messages:
        _bounded(message["content"] or "", "prompt")
    return item


# --- Readers: a row and the file's name in, an item out; ValueError names field and remedy ---


def _preference(row: Row, stem: str) -> Item:
    messages, chosen, rejected = _parted(row)
    return _pair(messages, chosen, rejected, _subset(row, stem), tools=_tools(row))


def _rewardbench(row: Row, stem: str) -> Item:
    messages, chosen, rejected = _parted(row)
    return _pair(messages, chosen, rejected, _text(row, "subset"))


def _rewardbench2(row: Row, stem: str) -> Item:
    subset = _text(row, "subset")
    ties = subset.lower() == "ties"
    right, wrong = _texts(row, "chosen"), _texts(row, "rejected")
    reference = str(row.get("id", ""))
    if ties and not re.fullmatch(r"(ref|tied):\d+", reference):
        raise ValueError(f'id must be "ref:N" or "tied:N" in the subset Ties, not {reference!r:.40}')
    return _right_and_wrong(
        _prompt(row),
        right,
        wrong,
        "Ties" if ties else subset,
        compare="ties" if ties else "best",
        reference=reference if ties else "",
    )


def _rmbench(row: Row, stem: str) -> Item:
    right, wrong = _texts(row, "chosen"), _texts(row, "rejected")
    if (len(right), len(wrong)) != (3, 3):
        raise ValueError(
            "chosen and rejected must hold 3 texts each: concise, detailed, detailed with markdown"
        )
    return _right_and_wrong(_prompt(row), right, wrong, _text(row, "domain"), compare="grid")


def _rmb(row: Row, stem: str) -> Item:
    messages = [
        {"role": message["role"], "content": message["content"]}
        for message in checked(row.get("conversation_input"), "conversation_input")
    ]
    parts = _text(row, "category_path").split("/")
    goal = parts[1] if len(parts) > 1 else parts[0]
    category = parts[2] if len(parts) > 2 else ""
    if "bon_best" in row:
        losers = row.get("loser_list")
        if not isinstance(losers, list) or not losers:
            raise ValueError("loser_list must be a list of answers")
        wrong = [_answer(one, f"loser_list[{n}]") for n, one in enumerate(losers)]
        subsets = [f"{goal}/best of n"] + [f"{goal}/best of n/{category}"] * bool(category)
        return _right_and_wrong(
            messages, [_answer(row["bon_best"], "bon_best")], wrong, *subsets, compare="best"
        )
    subsets = [f"{goal}/pairs"] + [f"{goal}/pairs/{category}"] * bool(category)
    return _pair(
        messages, _answer(row.get("chosen"), "chosen"), _answer(row.get("reject"), "reject"), *subsets
    )


def _judgebench(row: Row, stem: str) -> Item:
    sides = [_text(row, "response_A", empty=True), _text(row, "response_B", empty=True)]
    label = _text(row, "label").strip()
    if label not in ("A>B", "B>A"):
        raise ValueError(f'label must be "A>B" or "B>A", not {label!r:.40}')
    chosen, rejected = sides if label == "A>B" else reversed(sides)
    subset = _subset(row, stem)
    section = [name for start, name in JUDGEBENCH_SECTIONS.items() if subset.startswith(start)]
    return _pair(_prompt(row), chosen, rejected, *section, subset)


def _ppe_human(row: Row, stem: str) -> Item:
    sides = [_text(row, "response_1", empty=True), _text(row, "response_2", empty=True)]
    winner = _text(row, "winner")
    if winner.startswith("tie") or winner == "both_bad":
        raise _PeopleTied
    if winner not in ("model_a", "model_b"):
        raise ValueError(f'winner must be "model_a", "model_b" or "tie", not {winner!r:.40}')
    chosen, rejected = sides if winner == "model_a" else reversed(sides)
    language = row.get("language")
    subsets = [f"language: {language}"] if isinstance(language, str) and language else []
    subsets += [name for name in _FLAGS if row.get(name) is True]
    return _pair(_prompt(row), chosen, rejected, *subsets)


def _ppe_correctness(row: Row, stem: str) -> Item:
    count = next(n for n in itertools.count(1) if f"response_{n + 1}" not in row)
    responses = tuple(_text(row, f"response_{n}", empty=True) for n in range(1, count + 1))
    gold = _numbers(row, "scores", count)
    sampled = row.get("sampled_conflict_pairs")
    pairs: tuple[Pair, ...]
    if sampled is None:
        pairs = _ordered(gold)
    else:
        if not isinstance(sampled, list) or not all(_is_pair(pair, count) for pair in sampled):
            raise ValueError(f"sampled_conflict_pairs must be pairs of places from 0 to {count - 1}")
        pairs = tuple((a, b) if gold[a] > gold[b] else (b, a) for a, b in sampled if gold[a] != gold[b])
    domain = next((name for column, name in _PPE_DOMAINS.items() if column in row), stem)
    return Item(_prompt(row), responses, gold, "pairs", (domain,), pairs)


def _best_of_n(row: Row, stem: str) -> Item:
    responses = _texts(row, "responses")
    gold = _numbers(row, "scores", len(responses))
    return Item(
        _prompt(row), tuple(responses), gold, "pairs", (_subset(row, stem),), _ordered(gold), _tools(row)
    )


# JudgeBench's sources are named by the data set and the subject; results are told by the first.
JUDGEBENCH_SECTIONS = {
    "mmlu-pro": "Knowledge", "livebench-reasoning": "Reasoning", "livebench-math": "Mathematics",
    "livecodebench": "Coding",
}  # fmt: skip
# What a subset of the human preferences of PPE is called there, as columns of true and false.
_FLAGS = ("hard_prompt", "easy_prompt", "if_prompt", "math_prompt", "is_code")
# PPE's correctness sets don't say which they are: a column that each has from the data set it was made of.
_PPE_DOMAINS = {
    "test_list": "MBPP-Plus", "Record ID": "GPQA", "instruction_id_list": "IFEval", "cot_content": "MMLU-Pro",
    "level": "MATH",
}  # fmt: skip

# The columns each format needs ("a|b": one of them), in the order in which they are tried.
_READERS: dict[str, tuple[tuple[str, ...], Callable[[Row, str], Item]]] = {
    "rmb": (("conversation_input", "category_path", "bon_best|reject"), _rmb),
    "judgebench": (("question", "response_A", "response_B", "label"), _judgebench),
    "ppe_correctness": (("prompt", "response_1", "response_2", "scores"), _ppe_correctness),
    "ppe_human": (("prompt", "response_1", "response_2", "winner"), _ppe_human),
    "rewardbench2": (("prompt", "chosen", "rejected", "num_correct", "subset"), _rewardbench2),
    "rmbench": (("prompt", "chosen", "rejected", "domain"), _rmbench),
    "rewardbench": (
        ("prompt", "chosen", "rejected", "chosen_model", "rejected_model", "subset"),
        _rewardbench,
    ),
    "best_of_n": (("prompt|question|instruction", "responses", "scores"), _best_of_n),
    "preference": (("chosen", "rejected"), _preference),
}


# --- Fields ---


def _pair(
    messages: list[Message], chosen: str, rejected: str, *subsets: str, tools: list[Any] | None = None
) -> Item:
    return Item(messages, (chosen, rejected), (1.0, 0.0), "pairs", subsets, ((0, 1),), tools or [])


def _right_and_wrong(
    messages: list[Message],
    right: list[str],
    wrong: list[str],
    *subsets: str,
    compare: str,
    reference: str = "",
) -> Item:
    gold = (1.0,) * len(right) + (0.0,) * len(wrong)
    return Item(messages, (*right, *wrong), gold, compare, subsets, reference=reference)


def _text(row: Row, name: str, *, empty: bool = False) -> str:
    value = row.get(name)
    if not isinstance(value, str) or (not value and not empty):
        raise ValueError(f"{name} must be a text, not {value!r:.40}")
    return _bounded(value, name)


def _bounded(value: str, name: str) -> str:
    if len(value) > MAX_TEXT:
        raise ValueError(f"{name} has {len(value):,} characters, of {MAX_TEXT:,} allowed; shorten it")
    return value


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) for one in value)


def _texts(row: Row, name: str) -> list[str]:
    value: Any = row.get(name)
    if not _is_texts(value):
        raise ValueError(f"{name} must be a list of texts, not {value!r:.40}")
    return [_bounded(one, f"{name}[{n}]") for n, one in enumerate(value)]


def _answer(value: Any, name: str) -> str:
    if not isinstance(value, dict) or not isinstance(value.get("answer"), str):
        raise ValueError(f'{name} must be an object with the text "answer"')
    return _bounded(value["answer"], name)


def _numbers(row: Row, name: str, count: int) -> tuple[float, ...]:
    value: Any = row.get(name)
    good = isinstance(value, list) and all(
        isinstance(one, (bool, int, float)) and abs(one) <= MAX_NUMBER for one in value
    )
    if not good or len(value) != count:
        raise ValueError(f"{name} must be a list of {count} numbers, one for each response")
    return tuple(float(one) for one in value)


def _ordered(gold: Sequence[float]) -> tuple[Pair, ...]:
    """All pairs (better, worse)."""
    return tuple((a, b) for a in range(len(gold)) for b in range(len(gold)) if gold[a] > gold[b])


def _is_pair(value: Any, count: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(type(one) is int and 0 <= one < count for one in value)
    )


def _subset(row: Row, stem: str) -> str:
    """What the file says the row belongs to, else the file's name."""
    for name in ("subset", "domain", "source", "category"):
        if isinstance(row.get(name), str) and row[name]:
            return str(row[name])[:200]
    return stem


def _tools(row: Row) -> list[Any]:
    tools = row.get("tools") or []
    if not isinstance(tools, list):
        raise ValueError("tools must be a list of tools' JSON schemas")
    return tools


def _prompt(row: Row) -> list[Message]:
    """The prompt's messages: a text is one turn of the user."""
    name = next(
        (one for one in ("prompt", "question", "instruction", "query") if row.get(one) is not None), "prompt"
    )
    value = row.get(name)
    if isinstance(value, str) and value.strip():
        return [{"role": "user", "content": value}]
    if isinstance(value, list) and value:
        return checked(value, name)
    raise ValueError(f"{name} must be a text or a list of messages, not {value!r:.40}")


def _parted(row: Row) -> tuple[list[Message], str, str]:
    """Prompt, chosen and rejected of a preference, whichever way they are written."""
    chosen, rejected = row.get("chosen"), row.get("rejected")
    given = any(row.get(one) not in (None, "", []) for one in ("prompt", "question", "instruction", "query"))
    if isinstance(chosen, str) and isinstance(rejected, str):
        _text(row, "chosen", empty=True)
        _text(row, "rejected", empty=True)
        if not given and chosen.startswith("\n\nHuman:") and rejected.startswith("\n\nHuman:"):
            return _by_turns(_transcript(chosen), _transcript(rejected), [])
        return (_prompt(row) if given else []), chosen, rejected
    if not isinstance(chosen, list) or not isinstance(rejected, list):
        raise ValueError("chosen and rejected must both be texts, or both lists of messages")
    return _by_turns(checked(chosen, "chosen"), checked(rejected, "rejected"), _prompt(row) if given else [])


def _by_turns(
    chosen: list[Message], rejected: list[Message], prompt: list[Message]
) -> tuple[list[Message], str, str]:
    """Two conversations that share all but their last turn, which are the responses; perhaps without the prompt."""
    if not chosen or not rejected:
        raise ValueError("chosen and rejected must not be empty lists")
    shared, other = chosen[:-1], rejected[:-1]
    if shared != other:
        raise ValueError(
            "chosen and rejected must differ in their last turn alone; cut them after the first that differs"
        )
    if not shared:
        shared = prompt
    elif prompt and len(prompt) > 1 and prompt != shared:
        raise ValueError("prompt differs from the turns that chosen and rejected share; keep one of the two")
    return shared, _bounded(spoken(chosen[-1]), "chosen"), _bounded(spoken(rejected[-1]), "rejected")


_SPEAKER = re.compile(r"\n\n(Human|Assistant): ?")


def _transcript(text: str) -> list[Message]:
    _, *parts = _SPEAKER.split(text)
    roles = {"Human": "user", "Assistant": "assistant"}
    return [{"role": roles[who], "content": said} for who, said in zip(parts[::2], parts[1::2], strict=True)]


def subset_counts(items: Iterable[Item]) -> dict[str, int]:
    """How many items stand in each subset, by name."""
    return dict(sorted(Counter(name for item in items for name in item.subsets).items()))
