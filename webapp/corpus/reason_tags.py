"""The reasons that a project offers its annotators for each side of a pair: few, short, and told apart at a glance."""

import unicodedata
from collections.abc import Iterable
from typing import Any

MAX_REASON_TAGS = 10
MAX_TAG_CHARACTERS = 40

# Letters of some scripts, and some emoji, are written with them.
_JOINERS = "\u200c\u200d"


class TagRefused(ValueError):
    """A list of tags that a project can't have; the message names the tag and the remedy."""


def check_tags(tags: Iterable[Any]) -> list[str]:
    """The tags without white space around them; raises TagRefused for the first that can't be one."""
    found: dict[str, str] = {}
    for tag in tags:
        if not isinstance(tag, str):
            raise TagRefused(f"{tag!r} is no text: write each reason as a text.")
        tag = tag.strip()
        _check_tag(tag)
        same = unicodedata.normalize("NFKC", tag).casefold().translate(dict.fromkeys(map(ord, _JOINERS)))
        if same in found:
            other = found[same]
            also = "twice" if other == tag else f"beside “{other}”"
            raise TagRefused(f"“{tag}” stands here {also}: leave one of the two out.")
        found[same] = tag
    if len(found) > MAX_REASON_TAGS:
        raise TagRefused(f"{len(found)} reasons, of {MAX_REASON_TAGS} allowed: leave some out.")
    return list(found.values())


def _check_tag(tag: str) -> None:
    unseen = next((letter for letter in tag if not letter.isprintable() and letter not in _JOINERS), None)
    if unseen is not None:
        shown = "".join(letter if letter.isprintable() else "�" for letter in tag[:MAX_TAG_CHARACTERS])
        raise TagRefused(f"“{shown}” holds the invisible character U+{ord(unseen):04X}: take it out.")
    if not tag.strip(_JOINERS + " "):
        raise TagRefused("A reason has no visible character: write a word, or leave it out.")
    if len(tag) > MAX_TAG_CHARACTERS:
        raise TagRefused(
            f"“{tag[:MAX_TAG_CHARACTERS]}…” has {len(tag)} characters, of {MAX_TAG_CHARACTERS} allowed: shorten it."
        )
