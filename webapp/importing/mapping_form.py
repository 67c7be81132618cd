"""The form that asks which column is what. One page; what a choice makes necessary to ask is asked on the next showing.

Fields: `role-N` of each column, `meaning-N` of each value of the winner columns, what ratings become, and who judged
where no column says it. `asked` holds the columns whose values the page has asked about.
"""

import math
from collections.abc import Mapping as AnyMapping
from typing import Any

from webapp.importing.mapping import MEANINGS, ROLES, USES, Mapping
from webapp.importing.survey import cut_points, meanings, winner_values


class MappingForm:
    """What the page shows and what came back. `mapping` and `errors` are there after `is_valid`."""

    def __init__(
        self, found: dict[str, Any], start: Mapping, data: AnyMapping[str, str] | None = None
    ) -> None:
        self.found, self.data = found, data
        self.names = list(found["columns"])
        self.mapping = start
        self.errors: dict[str, str] = {}
        self.notes: list[str] = []

    def is_valid(self) -> bool:
        """Whether the page is answered; if something new has to be asked it is not, and `notes` say what."""
        assert self.data is not None
        data = self.data
        roles = {name: data.get(f"role-{place}", "") for place, name in enumerate(self.names)}
        before = self.mapping
        mapping = Mapping(roles={name: role if role in ROLES else "" for name, role in roles.items()})
        mapping.ratings = data.get("ratings", before.ratings)
        mapping.annotator = data.get("annotator", before.annotator).strip()
        self.mapping = mapping
        asked = data.get("asked", "")
        rated = data.get("rated", "")
        values = self._values()
        if asked == self._winners():
            for place, key in enumerate(values):
                meaning = data.get(f"meaning-{place}", "")
                if meaning in self._meanings():
                    mapping.winner[key] = meaning
        else:
            mapping.winner = meanings(mapping, self.found)
        if rated and mapping.has_ratings:
            for name in ("bad_to", "normal_to", "difference"):
                setattr(mapping, name, _number(data.get(name, "")))
        elif mapping.has_ratings:
            mapping.bad_to, mapping.normal_to = cut_points(mapping, self.found)
            if {"winner", "chosen"} & set(mapping.roles.values()):
                mapping.ratings = "levels"
        self.errors = mapping.errors()
        if asked == self._winners():
            for place, (key, shown) in enumerate(values.items()):
                if key not in mapping.winner:
                    self.errors[f"meaning-{place}"] = f"Say what “{shown}” means."
        elif values:
            self.notes.append(f"Check what the values of {self._winners_named()} mean.")
        if mapping.has_ratings and not rated:
            self.notes.append("Check what the ratings become.")
            self.errors = {
                name: text
                for name, text in self.errors.items()
                if name not in ("bad_to", "normal_to", "difference", "ratings")
            }
        return not self.errors and not self.notes

    def _winners(self) -> str:
        return " ".join(str(self.names.index(name)) for name in self.mapping.columns("winner"))

    def _winners_named(self) -> str:
        return " and ".join(f"“{name}”" for name in self.mapping.columns("winner"))

    def _values(self) -> dict[str, str]:
        found = winner_values(self.mapping, self.found) or {}
        return {key: shown for key, shown in found.items() if key}

    def _meanings(self) -> dict[str, str]:
        """The choices for a value: of several responses, which one is the best."""
        listed = self.mapping.columns("response")
        most = max([len(listed), *(self.found["columns"][name]["most"] for name in listed)], default=0)
        if most <= 2:
            return MEANINGS
        best = {f"r{number}": f"response {number} is the best" for number in range(1, min(most, 20) + 1)}
        kept = ("tie", "both_bad", "skip", "none", "row")
        return best | {name: MEANINGS[name] for name in kept}

    # --- What the template reads ---

    def columns(self) -> list[dict[str, Any]]:
        return [
            {
                "place": place,
                "name": name,
                "role": self.mapping.roles.get(name, ""),
                "error": self.errors.get(name, ""),
                **{key: self.found["columns"][name][key] for key in ("samples", "filled")},
            }
            for place, name in enumerate(self.names)
        ]

    def roles(self) -> list[tuple[str, str]]:
        return list(ROLES.items())

    def winners(self) -> dict[str, Any] | None:
        """The values of the winner columns, with a choice each."""
        if not self.mapping.columns("winner"):
            return None
        return {
            "asked": self._winners(),
            "named": self._winners_named(),
            "many": winner_values(self.mapping, self.found) is None,
            "choices": list(self._meanings().items()),
            "values": [
                {
                    "place": place,
                    "shown": shown,
                    "meaning": self.mapping.winner.get(key, ""),
                    "error": self.errors.get(f"meaning-{place}", ""),
                }
                for place, (key, shown) in enumerate(self._values().items())
            ],
        }

    def ratings(self) -> dict[str, Any] | None:
        if not self.mapping.has_ratings:
            return None
        seen = [
            self.found["columns"][name]
            for name, role in self.mapping.roles.items()
            if role.startswith("rating") and name in self.found["columns"]
        ]
        lows = [each["low"] for each in seen if each["low"] is not None]
        highs = [each["high"] for each in seen if each["high"] is not None]
        numbers = [
            ("bad_to", "“bad” up to and with", self.mapping.bad_to),
            ("normal_to", "“normal” up to and with (above is “good”)", self.mapping.normal_to),
            ("difference", "A verdict from a difference of", self.mapping.difference),
        ]
        return {
            "uses": list(USES.items()),
            "use": self.mapping.ratings,
            "low": f"{min(lows):g}" if lows else "",
            "high": f"{max(highs):g}" if highs else "",
            "numbers": [
                {"name": name, "label": label, "value": _shown(value), "error": self.errors.get(name, "")}
                for name, label, value in numbers
            ],
        }


def _number(text: str) -> float:
    try:
        return float(text.strip().replace(",", ".")[:40])
    except ValueError:
        return math.nan


def _shown(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:g}"
