"""What is judged, and what people say about it: prompts, responses, pairs, cards, judgements, levels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from caliper import types
from caliper.transport import Group


class Prompts(Group):
    def list(self, *, q: str | None = None, external_id: str | None = None) -> Iterator[types.Prompt]:
        """The newest first. `q`: only those with this text in a message or in the id."""
        return self._pages("/projects/{slug}/prompts", {"q": q, "external_id": external_id})

    def get(self, id: int) -> types.Prompt:
        return self._send("GET", "/projects/{slug}/prompts/{id}", id=id)


class Responses(Group):
    def list(
        self, *, prompt: int | None = None, author: str | None = None, external_id: str | None = None
    ) -> Iterator[types.Response]:
        """The newest first, with how many people gave each level."""
        query = {"prompt": prompt, "author": author, "external_id": external_id}
        return self._pages("/projects/{slug}/responses", query)

    def get(self, id: int) -> types.Response:
        return self._send("GET", "/projects/{slug}/responses/{id}", id=id)

    def predictions(self, id: int) -> types.ResponseRatings:
        """What the serving versions predict for one response, beside the levels that people gave."""
        return self._send("GET", "/projects/{slug}/responses/{id}/predictions", id=id)


class Pairs(Group):
    def list(
        self,
        *,
        prompt: int | None = None,
        response: int | None = None,
        judged: bool | None = None,
        open: bool | None = None,
        external_id: str | None = None,
    ) -> Iterator[types.Pair]:
        """The newest first, with how many people judged how. `open`: whether it wants more judgements."""
        query = {"prompt": prompt, "response": response, "judged": judged, "open": open}
        return self._pages("/projects/{slug}/pairs", {**query, "external_id": external_id})

    def get(self, id: int) -> types.PairWhole:
        return self._send("GET", "/projects/{slug}/pairs/{id}", id=id)

    def create(self, **fields: Any) -> types.PairWhole:
        """Add a pair by hand: of a prompt that is there (`prompt`) or is new (`prompt_text`). Each side is a response
        of the prompt (`a`, `b`) or a new text (`text_a`, `text_b`) with its author (`author_a`, `author_b`).
        """
        return self._send("POST", "/projects/{slug}/pairs", json=fields)


class Cards(Group):
    """The cards that this person is to judge, as on the Annotate page."""

    def next(self, count: int = 1) -> types.Cards:
        """Up to `count` cards, reserved for this person for a while."""
        return self._send("POST", "/projects/{slug}/cards/next", json={"count": count})

    def get(self, key: str) -> types.CardShown:
        return self._send("GET", "/projects/{slug}/cards/{key}", key=key)

    def answer(
        self,
        card: types.CardShown,
        verdict: str | None = None,
        *,
        strength: int | None = None,
        levels: Mapping[str, str] | None = None,
        level: str | None = None,
        reasons: Mapping[str, Sequence[str]] | None = None,
        comment: str = "",
        keep: str = "",
        revision: int | None = None,
    ) -> types.Receipt:
        """Judge a card: `verdict` left, right, tie, both_bad or skip, in terms of what stands on the card.

        `levels` {"left": "good", "right": "bad"} where the project asks for them; `level` of a card with one response.
        An answer that contradicts itself, or one given elsewhere meanwhile, is refused with status 409: its problem
        has the `keep` and `revision` with which it is stored all the same.
        """
        answer = {
            "verdict": verdict,
            "strength": strength,
            "levels": dict(levels) if levels else None,
            "level": level,
            "reasons": {side: list(tags) for side, tags in reasons.items()} if reasons else None,
            "comment": comment,
            "keep": keep,
            "shown_at": card.get("shown_at"),
            "revision": card["revision"] if revision is None else revision,
        }
        given = {name: value for name, value in answer.items() if value not in (None, "")}
        return self._send("POST", "/projects/{slug}/cards/{key}", key=card["key"], json=given)

    def undo(self, key: str | None = None) -> types.Undone:
        """Take back the newest answer, or that of one card if it is the newest."""
        return self._send("POST", "/projects/{slug}/cards/undo", json={"key": key})


class Judgements(Group):
    def list(
        self, *, since: int | None = None, annotator: int | None = None, superseded: bool | None = None
    ) -> Iterator[types.JudgementRow]:
        """One's own for annotators, everybody's for researchers and admins."""
        query = {"since": since, "annotator": annotator, "superseded": superseded}
        return self._pages("/projects/{slug}/judgements", query)


class Levels(Group):
    def list(
        self, *, since: int | None = None, annotator: int | None = None, superseded: bool | None = None
    ) -> Iterator[types.LevelRow]:
        """As for judgements."""
        query = {"since": since, "annotator": annotator, "superseded": superseded}
        return self._pages("/projects/{slug}/levels", query)
