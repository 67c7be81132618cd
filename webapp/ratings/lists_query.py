"""What a list was asked for: a search text, filters and a sort, all of them in the address bar."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from webapp.parameters import int_parameter

# --- What can be chosen: the words of each value; "" is no filter ---

PAIR_STATES = {
    "": "all pairs",
    "split": "people disagree",
    "unanimous": "people agree",
    "several": "two judgements or more",
    "enough": "judged as often as wanted",
    "wanting": "fewer judgements than wanted",
    "unjudged": "no judgement yet",
}
RESPONSE_STATES = {"": "all responses", "labelled": "labelled", "unlabelled": "no label yet"}
LEVEL_CHOICES = {
    "": "any",
    "good": "good",
    "normal": "normal",
    "bad": "bad",
    "disputed": "people disagree",
    "none": "no level yet",
}
RESPONSE_SPLITS = {
    "": "any",
    "held_out": "held out",
    "train": "trained on",
    "unlabelled": "no labels when trained",
    "unrated": "not rated",
}
PAIR_SPLITS = {"": "any", "held_out": "held out: trained on neither", "train": "trained on"}
VOTE_SPLITS = {
    "": "any",
    "even": "near 1:1 (40 % or more for the weaker side)",
    "leaning": "leaning (20 to 40 %)",
    "clear": "clear (less than 20 %)",
}
AGAINST = {"": "any", "against": "against most people", "with": "with most people"}

PAIR_SORTS = {
    "people": "People disagree",
    "even": "Near 1:1",
    "model": "Model against people",
    "judged": "Judgements",
    "added": "Added",
}
RESPONSE_SORTS = {
    "score": "Predicted",
    "spread": "Uncertainty",
    "gap": "Model against people",
    "level": "People's level",
    "split": "People disagree",
    "labels": "Number of levels",
    "length": "Length",
    "author": "Author",
    "added": "Added",
}


@dataclass(frozen=True)
class Listing:
    """One of the two lists: its sorts, and by parameter what may be chosen."""

    sorts: dict[str, str]
    choices: dict[str, dict[str, str]]


PAIRS = Listing(
    PAIR_SORTS,
    {
        "state": PAIR_STATES,
        "level": LEVEL_CHOICES,
        "split": PAIR_SPLITS,
        "votes": VOTE_SPLITS,
        "model": AGAINST,
    },
)
RESPONSES = Listing(
    RESPONSE_SORTS, {"state": RESPONSE_STATES, "level": LEVEL_CHOICES, "split": RESPONSE_SPLITS}
)


@dataclass(frozen=True)
class Query:
    """What a list was asked for. `ignored` names what was asked for and is none of the choices."""

    text: str
    state: str
    sort: str
    descending: bool
    page: int
    at: int | None = None  # beyond the numbered pages: the key that the page begins with
    response: int | None = None
    level: str = ""
    split: str = ""
    author: str = ""
    # Pairs alone:
    rival: str = ""
    votes: str = ""
    model: str = ""
    trained: bool = False  # "model" also has pairs that the model was trained on
    annotator: int | None = None
    ignored: tuple[str, ...] = ()

    @classmethod
    def of(cls, parameters: Any, listing: Listing, *, rated: bool) -> "Query":
        """From a query string; what is unknown or malformed falls back to the first sort and to no filter.

        `rated`: whether there is a version in sight, without which nothing can be chosen by what a model says.
        """
        asked = parameters.get("sort", "")
        name = asked.removeprefix("-")
        if name not in listing.sorts:
            asked, name = f"-{next(iter(listing.sorts))}", next(iter(listing.sorts))
        chosen = {
            "state": parameters.get("state", ""),
            "level": parameters.get("level", ""),
            "split": parameters.get("split", ""),
            "votes": parameters.get("votes", ""),
            "model": parameters.get("model", ""),
        }
        known = {
            key: value
            for key, value in chosen.items()
            if value in listing.choices.get(key, ()) and (rated or not value or key not in ("split", "model"))
        }
        annotator = int_parameter(parameters, "annotator")
        ignored = [key for key in listing.choices if key not in known]
        if annotator is None and parameters.get("annotator"):
            ignored.append("annotator")
        return cls(
            text=_words(parameters.get("q", "")),
            sort=name,
            descending=asked.startswith("-"),
            page=int_parameter(parameters, "page") or 1,
            at=int_parameter(parameters, "at"),
            response=int_parameter(parameters, "response"),
            author=_words(parameters.get("author", "")),
            rival=_words(parameters.get("rival", "")) if listing is PAIRS else "",
            trained=bool(parameters.get("trained")),
            annotator=annotator,
            ignored=tuple(ignored),
            **{"state": "", **known},
        )

    @property
    def value(self) -> str:
        """The sort as the query string writes it."""
        return f"-{self.sort}" if self.descending else self.sort

    @property
    def filters(self) -> int:
        """How many filters are set, beside the search and the state."""
        chosen = (self.level, self.split, self.author, self.rival, self.votes, self.model)
        return sum(bool(each) for each in chosen) + (self.annotator is not None)

    @property
    def compares(self) -> bool:
        """Whether the list needs a version beside people."""
        return bool(self.model) or self.sort in ("model", "gap")

    @property
    def adds_up(self) -> bool:
        """Whether the list needs what is counted and kept for it (webapp/ratings/tallies.py)."""
        needs = self.sort in ("people", "even", "level", "labels", "split") or self.state in (
            "split", "unanimous", "several", "labelled", "unlabelled",
        )  # fmt: skip
        return self.compares or needs or bool(self.level or self.votes or self.text)

    @property
    def narrowed(self) -> bool:
        """Whether the list may have fewer rows than there are."""
        return bool(self.filters or self.text or self.state or self.response is not None)


def _words(text: str) -> str:
    return text.replace("\x00", "").strip()[:200]


def sort_links(query: Query, sorts: Mapping[str, str]) -> list[dict[str, Any]]:
    """Each sort with the value its link sets: the sort in use turns its direction round."""
    return [
        {
            "label": label,
            "current": name == query.sort,
            "descending": query.descending,
            "value": name if name == query.sort and query.descending else f"-{name}",
        }
        for name, label in sorts.items()
    ]
