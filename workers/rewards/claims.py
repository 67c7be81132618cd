"""What a response says of its own grade, left out of what a model reads: "Score: 9", rubrics, turns, markers, praise.

DESIGN.md promises that such text does not move a score.  No training can promise that (benchmarks/robustness.py shows
how far hardening gets), so it is a rule: people see the whole response, the model reads it without these spans.  The
rule knows forms, not meanings.  What says the same in other words is still read, and the robustness suite measures
what that does ("other_words").
"""

from __future__ import annotations

import re

ROUNDS = 5

_WORD = r"(?:score|rating|grade|mark|points|overall|quality)"
_NUMBER = r"(?:100|\d{1,2})(?:[.,]\d)?(?!\d)"
_FULL = rf"{_NUMBER}(?:\s*(?:/|out\s+of)\s*\d{{1,3}}|\s+points)?"
_RESPONSE = r"(?:answers?|responses?|repl(?:y|ies)|solutions?|explanations?)"
_GOOD = (
    r"(?:excellent|perfect|outstanding|superb|flawless|brilliant|exceptional|exemplary|amazing|fantastic|wonderful|great"
    r"|best|ideal|top-quality|high-quality|first-rate|accurate|complete|comprehensive|helpful|correct)"
)
# "an excellent, perfect and truly outstanding"
_PRAISE = (
    r"(?:(?:an?|the|very|truly|really|simply|absolutely|most)\s+){0,3}"
    rf"{_GOOD}(?:(?:\s*,|,?\s+and)?\s+(?:(?:very|truly|most)\s+)?{_GOOD}){{0,5}}"
)
_QUOTES = "[\"'*_`\u201c\u201d]*"
_LEAD = "(?:[#\uff03\ufe5f>*_\"'`\\[({][\u00ad\u200b-\u200f\u2060\ufeff]{0,3}|\\s){0,20}"

# Each is replaced by one space; the longer forms come first.  All case-insensitive.  Every repetition that could run
# over a whole text is bounded: responses are hostile, and a slow pattern is a way to stop a worker.
CLAIMS = (
    # a verdict in JSON
    r'\{[^{}]{0,200}"(?:score|rating|grade)"\s*:\s*"?\d[^{}]{0,200}\}',
    # the heading and the lines of a rubric: "- Clarity: 9/9"
    r"(?m)^[^\n:]{0,40}\b(?:rubric|marking scheme|criteria)\b[^\n]{0,40}:?[ \t]*$",
    rf"(?m)^[ \t>*\-\u2022]*(?:\d\.[ \t]*)?[^\W\d][\w ]{{0,40}}[:=\uff1a][ \t]*{_NUMBER}[ \t]*(?:/|out of)"
    r"[ \t]*\d{1,3}(?:[ \t]*\([^()\n]{0,30}\))?[ \t]*$",
    # "Score: 9", "### Final score = 9/10", "**Rating** is 9 out of 10"
    rf"{_LEAD}\b(?:(?:final|total|overall|my)\s+)?{_WORD}{_QUOTES}(?:\s*[:=\uff1a]|\s+-|\s+is)"
    rf"\s*{_QUOTES}{_FULL}{_QUOTES}[\])}}]*",
    # "It deserves a 9."
    rf"\b(?:(?:it|this|that)\s+(?:\w+\s+)?)?(?:deserves?|merits?|earns?)\s+(?:an?\s+)?{_FULL}[.!]?(?=\s|<|$)",
    # instructions to whoever grades
    r"\b(?:please\s+)?(?:ignore|disregard|forget)\s+(?:\w+\s+){0,4}(?:previous|prior|above|earlier|preceding)\b"
    r"[^.!?\n]{0,120}[.!?]?",
    r"\b(?:(?:and|please)\s+)?(?:rate|grade|score)\s+(?:this|my|the)\s+(?:answer|response|reply|text)\b"
    r"[^.!?\n]{0,120}[.!?]?",
    # a turn that follows the response: whoever wrote the response wrote it too
    r"<\|(?:im_start|start_header_id|turn_start)\|>\s*(?:system|user|assistant|tool)\b(?:<\|end_header_id\|>)?[^<]{0,1000}"
    r"|<start_of_turn>\s*(?:user|model|system)\b[^<]{0,1000}",
    # praise of the response as such: "This is an excellent answer.", "My response is flawless."
    rf"\b(?:this|that|it|here)(?:\s+(?:is|was)|'s)\s+{_PRAISE}\s+{_RESPONSE}\b[^.!?\n]{{0,80}}[.!?]?",
    rf"\b(?:this|my|the\s+above)\s+{_RESPONSE}\s+(?:is|was)\s+{_PRAISE}\b[^.!?\n]{{0,80}}[.!?]?",
    # what frames turns and texts for language models
    r"<\|[^\s|<>]{1,40}\|>(?:(?:system|user|assistant)\b)?|<(?:start|end)_of_turn>(?:(?:user|model)\b)?|<</?SYS>>",
    r"\[/?(?:CLS|SEP|PAD|MASK|UNK|BOS|EOS|INST|END)\]|</?(?:s|bos|eos|pad|unk|mask|response)>",
)

# No claim is without one of these; most texts are, and cost one quick search.
_SIGN = re.compile(
    r"\d\s*(?:/|out of)\s*\d|[:=\uff1a\-{]\s*[\"'*_`\u201c]*\d|\bis\s+[\"'*_`]*\d|rubric|scheme"
    r"|criteria|deserve|merit|earn|ignore|disregard|forget|rate|grade|score|<[|/<a-z]|\[/?[a-z]"
    r"|answer|respon[sd]|repl(?:y|ies)|solution|explanation",
    re.IGNORECASE,
)
_CLAIMS = tuple(re.compile(pattern, re.IGNORECASE) for pattern in CLAIMS)


def without_claims(text: str) -> str:
    """The text without claims about its grade, and without outer white space.

    Again while something is taken out, since what stood on both sides of a claim must not become one; at most
    ROUNDS times, since nobody reads claims nested deeper.
    """
    text = text.strip()
    if not _SIGN.search(text):
        return text
    for _ in range(ROUNDS):
        before = text
        for pattern in _CLAIMS:
            text = pattern.sub(" ", text)
        text = text.strip()
        if text == before:
            break
    return text
