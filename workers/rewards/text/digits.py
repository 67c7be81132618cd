"""The nine digit tokens that a causal model's ratings are read from (OPRM, arXiv 2602.12660)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..config import Refused
from ..scale import RATINGS

SCORE_SUFFIX = "\n\n### Score:"


class Suffix(NamedTuple):
    text: str
    ids: list[int]
    digits: tuple[int, ...]


def score_suffix(tokenise: Callable[[str], list[int]]) -> Suffix:
    """The suffix, its ids, and the nine digit tokens that follow it naturally.

    Tokenizers differ in where the space of "Score: 7" goes: into the digit (" 7" is a token), into a token of its own
    (" ", "7": then the suffix ends in it), or nowhere. Raises Refused if no reading makes each digit one token.
    """
    for suffix, space in ((SCORE_SUFFIX, " "), (SCORE_SUFFIX + " ", ""), (SCORE_SUFFIX, "")):
        head = tokenise(suffix)
        whole = [tokenise(f"{suffix}{space}{digit}") for digit in range(1, RATINGS + 1)]
        last = {ids[-1] for ids in whole}
        if all(ids[:-1] == head for ids in whole) and len(last) == RATINGS:
            return Suffix(suffix, head, tuple(ids[-1] for ids in whole))
    raise Refused(
        "the base model's tokenizer does not make each digit 1-9 one token after 'Score:', "
        "so oprm and rgft cannot read ratings from it; choose another base model"
    )
