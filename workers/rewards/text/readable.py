"""What a base model can read of a snapshot: which judged pairs are the same to it, what it doesn't know, what was cut.

Two texts that give the same token ids get the same score, whatever people said of them: nothing can be learned from
such a pair or measured on it. It is left out, counted by cause, and said in plain words (docs/methods.md).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ..data.responses import UNKNOWN_SHARE
from ..data.snapshot import Snapshot
from ..data.split import Split
from .sections import Encoded

Pair = tuple[str, str]
CUT_SHARE = 0.05  # of the responses: from here on a person should know

# Why two responses read alike, and what helps; each completes "3 of 20 pairs read alike: ...".
CAUSES = {
    "equal": "both texts are the same; judge another answer to their prompts.",
    "cut": (
        "they differ only in what was cut off to fit; raise max_length (this run read {max_length} tokens), or choose "
        "a base model for longer texts."
    ),
    "unknown": (
        "the base model knows none of the characters in which they differ, and reads them all as {token}; choose a "
        "base model that knows them, such as a multilingual one or a causal one that reads bytes (starter is)."
    ),
    "spelling": (
        "the base model's tokenizer drops case, accents or white space, in which alone they differ; choose a base "
        "model that keeps them, such as a cased one or a causal one."
    ),
}


def reads_alike(snapshot: Snapshot, rows: Sequence[Encoded]) -> dict[Pair, str]:
    """The judged pairs (ids in order) that the model can't tell apart, and the cause. `rows`: of the responses."""
    index, alike = snapshot.index, {}
    for pair in judged_pairs(snapshot):
        a, b = (index[name] for name in pair)
        one, other = rows[a], rows[b]
        if one.ids == other.ids and one.pooled == other.pooled:
            same = snapshot.responses[a]["text"] == snapshot.responses[b]["text"]
            cut = one.truncated or other.truncated
            alike[pair] = "equal" if same else "cut" if cut else "unknown" if one.unknown else "spelling"
    return alike


def same_texts(snapshot: Snapshot) -> dict[Pair, str]:
    """The judged pairs of two equal texts, and the cause: all that a model which reads characters can't tell apart."""
    text = {row["response_id"]: row["text"] for row in snapshot.responses}
    return {(a, b): "equal" for a, b in judged_pairs(snapshot) if text[a] == text[b]}


def readable(snapshot: Snapshot, alike: Mapping[Pair, str]) -> Snapshot:
    """The snapshot without the judgements of pairs that read alike."""
    if not alike:
        return snapshot
    judgements = [row for row in snapshot.judgements if _pair(row) not in alike]
    return Snapshot(snapshot.responses, judgements, snapshot.levels)


def report(
    snapshot: Snapshot,
    rows: Sequence[Encoded],
    alike: Mapping[Pair, str],
    split: Split,
    *,
    max_length: int,
    token: str,
) -> dict[str, Any]:
    """The "reading" object of metrics.json; `token` is what the tokenizer writes for what it doesn't know.

    pairs and held_out: judged pairs (n), and how many of them read alike by cause. truncated: responses of which a
    part was not read, their prompt's included; cut: of the response itself. unknown: of all tokens read. notes: what
    of that a person should know, in plain words.
    """
    of = {row["response_id"]: split.is_held_out(row) for row in snapshot.responses}
    pairs = judged_pairs(snapshot)
    held_out = {pair for pair in pairs if of[pair[0]] and of[pair[1]]}
    found: dict[str, Any] = {
        "pairs": _by_cause(pairs, alike),
        "held_out": _by_cause(held_out, alike),
        "responses": len(rows),
        "truncated": sum(row.truncated for row in rows),
        "cut": sum(row.cut for row in rows),
        "tokens": sum(len(row) for row in rows),
        "unknown": sum(row.unknown for row in rows),
        "max_length": max_length,
    }
    of_all = found["pairs"]
    found["notes"] = [
        f"{of_all[cause]:,} of {of_all['n']:,} pairs read alike: "
        + words.format(max_length=max_length, token=token)
        for cause, words in CAUSES.items()
        if of_all[cause]
    ]
    if found["cut"] >= CUT_SHARE * len(rows):
        found["notes"].append(
            f"{found['cut'] / len(rows):.1%} of the responses lost their middle, for they are longer than the "
            f"{max_length:,} tokens that this run read with the prompt; raise max_length, or choose a base model for "
            "longer texts."
        )
    share = found["unknown"] / max(1, found["tokens"])
    if share >= UNKNOWN_SHARE:
        found["notes"].append(
            f"{share:.1%} of the tokens are {token}, characters that the base model does not know; choose one that "
            "knows them, such as a multilingual one."
        )
    return found


def _by_cause(pairs: set[Pair], alike: Mapping[Pair, str]) -> dict[str, int]:
    counted = Counter(alike[pair] for pair in pairs if pair in alike)
    return {"n": len(pairs), **{cause: counted[cause] for cause in CAUSES}}


def judged_pairs(snapshot: Snapshot) -> set[Pair]:
    """The pairs that somebody judged, their ids in order."""
    return {_pair(row) for row in snapshot.judgements}


def _pair(row: Mapping[str, Any]) -> Pair:
    a, b = row["response_a"], row["response_b"]
    return (a, b) if a <= b else (b, a)
