"""Which prompts of a benchmark stand among those a model was trained on, or nearly so."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

from .messages import Message, first_turn, spoken

RUN = 13  # words: what GPT-3 called an overlap (arXiv 2005.14165, appendix C)
_WORD = re.compile(r"\w+")


def near_duplicates(
    prompts: Sequence[Sequence[Message]], trained_on: Iterable[Sequence[Message]]
) -> list[bool]:
    """Of each prompt, whether a training prompt begins with the same user turn or shares 13 words in a row with it.

    The first turn is compared as groups are (without white space, case and forms of letters), the words are those of
    all the user's turns. Languages without spaces are told by the first turn alone.
    """
    firsts = [first_turn(messages) for messages in prompts]
    runs = [_runs(messages) for messages in prompts]
    wanted_firsts, wanted_runs = set(firsts), set().union(*runs)
    seen_firsts: set[str] = set()
    seen_runs: set[int] = set()
    for messages in trained_on:
        first = first_turn(messages)
        if first in seen_firsts:
            continue  # its responses stand in as many rows
        if first in wanted_firsts:
            seen_firsts.add(first)
        seen_runs |= _runs(messages) & wanted_runs
    seen_firsts.discard("")
    return [
        first in seen_firsts or not seen_runs.isdisjoint(mine)
        for first, mine in zip(firsts, runs, strict=True)
    ]


def _runs(messages: Sequence[Message]) -> set[int]:
    said = "\n".join(spoken(one) for one in messages if one["role"].lower() in ("user", "human"))
    words = _WORD.findall(unicodedata.normalize("NFKC", said).casefold())
    return {hash(tuple(words[n : n + RUN])) for n in range(len(words) - RUN + 1)}
