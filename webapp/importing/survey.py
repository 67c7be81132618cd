"""What the columns of files hold, and what they probably are: the guesses that a mapping page begins with."""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from webapp.importing.cells import parsed_cell
from webapp.importing.fields import is_given
from webapp.importing.mapping import Mapping, value_key
from webapp.importing.reading import Source, expanded, printable, rows
from webapp.importing.report import SURVEY_FILE, shorten

MAX_ROWS = 20_000
MAX_SURVEYED = 200
MAX_VALUES = 20
SAMPLES = 3
SAMPLE_LENGTH = 160
VALUE_LENGTH = 60


def survey(sources: Sequence[Source]) -> dict[str, Any]:
    """The columns of the first rows of each file: samples, how many are filled, distinct short values, the range."""
    columns: dict[str, dict[str, Any]] = {}
    seen = 0
    for source in expanded(sources)[0]:
        for number, row in rows(source):
            if number > MAX_ROWS:
                break
            if not isinstance(row, dict):
                continue
            seen += 1
            for column, value in row.items():
                if column in columns or len(columns) < MAX_SURVEYED:
                    _note(columns.setdefault(column, _column()), value)
    for found in columns.values():
        found["values"] = list(found["values"].values()) if found["values"] is not None else None
    return {"rows": seen, "columns": columns}


def _column() -> dict[str, Any]:
    return {"filled": 0, "samples": [], "values": {}, "low": None, "high": None, "most": 1}


def _note(found: dict[str, Any], value: Any) -> None:
    if not is_given(value):
        return
    found["filled"] += 1
    inside = parsed_cell(value)
    shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    shown = printable(shown)
    if len(found["samples"]) < SAMPLES and (sample := shorten(shown, SAMPLE_LENGTH)) not in found["samples"]:
        found["samples"].append(sample)
    if isinstance(inside, list):
        found["most"] = max(found["most"], len(inside))
    if found["values"] is not None:
        if len(shown) > VALUE_LENGTH or isinstance(inside, list | dict):
            found["values"] = None
        else:
            found["values"].setdefault(value_key(value), printable(shown.strip()))
            if len(found["values"]) > MAX_VALUES:
                found["values"] = None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return
    if number == number and abs(number) < 1e12:
        found["low"] = number if found["low"] is None else min(found["low"], number)
        found["high"] = number if found["high"] is None else max(found["high"], number)


def survey_write(folder: Path, found: dict[str, Any]) -> None:
    (folder / SURVEY_FILE).write_text(json.dumps(found, ensure_ascii=False), encoding="utf-8")


def survey_read(folder: Path) -> dict[str, Any] | None:
    """The survey of an import's files; None where there is none (any more)."""
    try:
        found: dict[str, Any] = json.loads((folder / SURVEY_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


# --- Guesses ---

_ANSWER = r"(response|answer|output|completion|reply|generation|candidate|assistant|text|option|summary|translation)s?"
_FIRST, _SECOND = r"(a|1|one|left|first)", r"(b|2|two|right|second)"
_SCORE = r"(score|rating|grade|rank|quality|points|stars|likert|reward)s?"
_MODEL = r"(model|author|system_name|generator|source|engine|llm)(_name|_id)?"
_WINNER = r"winner|better|best|preference|preferred|pref|label|verdict|choice|vote"
_WINNER += r"|judg(e?)ment|gold|which|decision|selected|result"

# The first rule that matches a column's name, in words joined by "_", says its role.
_RULES = [
    (rf"{_SCORE}_({_ANSWER}_)?{_FIRST}|({_ANSWER}_)?{_FIRST}_{_SCORE}|{_ANSWER}_?{_FIRST}_{_SCORE}", "rating_a"),
    (rf"{_SCORE}_({_ANSWER}_)?{_SECOND}|({_ANSWER}_)?{_SECOND}_{_SCORE}|{_ANSWER}_?{_SECOND}_{_SCORE}", "rating_b"),
    (rf"{_SCORE}_chosen|chosen_{_SCORE}", "rating_a"),
    (rf"{_SCORE}_rejected|rejected_{_SCORE}", "rating_b"),
    (rf"{_MODEL}_({_ANSWER}_)?({_FIRST}|chosen)|({_ANSWER}_)?({_FIRST}|chosen)_{_MODEL}", "author_a"),
    (rf"{_MODEL}_({_ANSWER}_)?({_SECOND}|rejected)|({_ANSWER}_)?({_SECOND}|rejected)_{_MODEL}", "author_b"),
    (r"(prompt|question|query|instruction|context|conversation)_id|qid", "prompt_id"),
    (r"id|uid|uuid|pair_id|item_id|(response|answer)_id|index|key", "id"),
    (rf"({_ANSWER}_)?{_FIRST}({_ANSWER})?|{_FIRST}_{_ANSWER}", "a"),
    (rf"({_ANSWER}_)?{_SECOND}({_ANSWER})?|{_SECOND}_{_ANSWER}", "b"),
    (r"chosen(_response|_answer|_text)?|good(_response|_answer)|positive|preferred_(response|answer)", "chosen"),
    (r"rejected(_response|_answer|_text)?|bad(_response|_answer)|negative|dispreferred_(response|answer)", "rejected"),
    (rf"{_ANSWER}_\d+|all_{_ANSWER}", "response"),
    (rf"{_SCORE}_\d+", "rating"),
    (rf"{_MODEL}_\d+", "author"),
    (r"system(_prompt|_message)?", "system"),
    (r"history|messages|conversations?|dialogue?|turns|chat|previous_turns", "history"),
    (r"prompts?|questions?|query|instructions?|input|user(_prompt|_input|_message)?|task|problem|request", "prompt"),
    (rf"({_WINNER})(_(label|{_ANSWER}|model|side|is))?|(human|a_is|is_a|a|first_is)_({_WINNER})|winning_.*", "winner"),
    (r"annotator(_id|_name)?|rater(_id)?|judge(_id)?|worker(_id)?|user_id|labell?er(_id)?|reviewer", "annotator"),
    (r"comments?|reason(ing|s)?|rationale|feedback|justification|explanation|notes?|remarks?", "comment"),
    (r"group|topic|category|subset|domain|cluster|debate|split_group|subject", "group"),
    (rf"{_ANSWER}", "response"),
    (rf"{_SCORE}", "rating"),
    (rf"{_MODEL}", "author"),
]  # fmt: skip
_COMPILED = [(re.compile(rule), role) for rule, role in _RULES]


def words(name: str) -> str:
    """answerA, answer-a, Answer A and answer1 as answer_a and answer_1."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z0-9])|(?<=[0-9])(?=[A-Za-z])", "_", name.strip())
    return re.sub(r"[\W_]+", "_", parted.lower()).strip("_")


def guess(found: dict[str, Any]) -> Mapping:
    """A mapping to begin with, from the names of the columns and from their values."""
    columns: dict[str, dict[str, Any]] = found["columns"]
    roles: dict[str, str] = {}
    taken: set[str] = set()
    for column in columns:
        name = words(column)
        role = next((role for rule, role in _COMPILED if rule.fullmatch(name)), "")
        if role in taken and role not in ("response", "rating", "author"):
            role = ""
        roles[column] = role
        taken.add(role)
    _tidy(roles, columns)
    mapping = Mapping(roles=roles)
    mapping.winner = meanings(mapping, found)
    mapping.bad_to, mapping.normal_to = cut_points(mapping, found)
    if mapping.has_ratings and not {"winner", "chosen"} & set(roles.values()):
        mapping.ratings = "pairs" if "rating_a" in roles.values() else "levels"
    return mapping


def _tidy(roles: dict[str, str], columns: dict[str, dict[str, Any]]) -> None:
    """Take back guesses that cannot stand together."""

    def drop(*unwanted: str) -> None:
        for column, role in roles.items():
            if role in unwanted:
                roles[column] = ""

    has = set(roles.values())
    numbered = [column for column in roles if roles[column] == "response" and words(column)[-1:].isdecimal()]
    if {
        "a",
        "b",
    } <= has and numbered:  # answer_1, answer_2, answer_3: several responses, not a pair and a rest
        for column in roles:
            if roles[column] in ("a", "b"):
                roles[column] = "response"
            elif roles[column] in ("rating_a", "rating_b"):
                roles[column] = "rating"
            elif roles[column] in ("author_a", "author_b"):
                roles[column] = "author"
        for column in roles:
            if roles[column] == "response" and column not in numbered and not words(column)[-1:].isdecimal():
                roles[column] = ""
    elif {"a", "b"} <= has:
        drop("chosen", "rejected", "response", "author", "rating")
    elif {"chosen", "rejected"} <= has:
        drop("a", "b", "response", "author", "rating", "winner")
    else:
        drop("rating_a", "rating_b", "author_a", "author_b", "chosen", "rejected")
        for column in roles:
            if roles[column] in ("a", "b"):
                roles[column] = "response"
    counts = {role: list(roles.values()).count(role) for role in ("response", "rating", "author")}
    for role in ("rating", "author"):
        if counts["response"] > 1 and counts[role] != counts["response"]:
            drop(role)
        elif counts["response"] <= 1 and counts[role] > 1:
            kept = next(column for column in roles if roles[column] == role)
            drop(role)
            roles[kept] = role
    for column, role in roles.items():
        if role == "rating" and columns[column]["low"] is None and columns[column]["most"] == 1:
            roles[column] = ""


def cut_points(mapping: Mapping, found: dict[str, Any]) -> tuple[float | None, float | None]:
    """Thirds of the range that the ratings have, at whole numbers where it is wide enough."""
    rated = [
        found["columns"][column]
        for column, role in mapping.roles.items()
        if role in ("rating", "rating_a", "rating_b") and column in found["columns"]
    ]
    lows = [each["low"] for each in rated if each["low"] is not None]
    highs = [each["high"] for each in rated if each["high"] is not None]
    if not lows or min(lows) == max(highs):
        return None, None
    low, high = min(lows), max(highs)
    third = (high - low) / 3
    if third >= 1 or (high - low >= 2 and low == int(low) and high == int(high)):
        return float(int(low + third)), float(int(low + 2 * third))
    return round(low + third, 4), round(low + 2 * third, 4)


def winner_values(mapping: Mapping, found: dict[str, Any]) -> dict[str, str] | None:
    """Each distinct value of the winner columns by its key; None where there are too many to ask about."""
    seen: dict[str, str] = {}
    for column in mapping.columns("winner"):
        values = found["columns"].get(column, {}).get("values")
        if values is None:
            return None
        seen |= {value_key(value): value for value in values}
    return seen if len(seen) <= MAX_VALUES else None


_WORDS = [
    (r"both_?bad|tie_both_?bad|both_are_bad|neither|both_wrong|both_poor|none_of_(them|the_two)|bad_tie", "both_bad"),
    (r"tie|ties|tied|equal|same|draw|both|both_good|no_preference|similar|eq|equally_good|0_5", "tie"),
    (r"skip|skipped|unsure|unclear|cant_say|don_t_know|dont_know|not_sure", "skip"),
    (r"none|na|n_a|nan|null|unknown|missing|invalid|", "none"),
]  # fmt: skip
_SIDES = [
    (rf"((model|system|option|choice|{_ANSWER}|assistant)_)*{_FIRST}(_(is_)?(better|wins?|best|{_ANSWER}))?", "a"),
    (rf"((model|system|option|choice|{_ANSWER}|assistant)_)*{_SECOND}(_(is_)?(better|wins?|best|{_ANSWER}))?", "b"),
]  # fmt: skip


def meanings(mapping: Mapping, found: dict[str, Any]) -> dict[str, str]:
    """What each value of the winner columns probably means; a value without a guess is left out."""
    values = winner_values(mapping, found) or {}
    keys = {key for key in values if key}
    guessed = _numbers(keys, several=len(mapping.columns("response")))
    own = {value_key(column): role for column, role in mapping.roles.items() if role in ("a", "b")}
    own |= {value_key(column): f"r{n}" for n, column in enumerate(mapping.columns("response"), start=1)}
    authors = _values_of(
        found, [c for role in ("author", "author_a", "author_b") for c in mapping.columns(role)]
    )
    for key in sorted(keys - set(guessed)):
        name = words(key)
        if key in own:
            guessed[key] = own[key]
        elif key in authors:
            guessed[key] = "row"
        else:
            meaning = next((m for rule, m in [*_WORDS, *_SIDES] if re.fullmatch(rule, name)), "")
            if re.fullmatch(r"a\s*>+\s*b|b\s*<+\s*a", key):
                meaning = "a"
            elif re.fullmatch(r"b\s*>+\s*a|a\s*<+\s*b", key):
                meaning = "b"
            elif re.fullmatch(r"a\s*=+\s*b", key):
                meaning = "tie"
            elif not name:
                meaning = ""
            if meaning:
                guessed[key] = meaning
    return guessed


def _values_of(found: dict[str, Any], columns: Iterable[str]) -> set[str]:
    return {value_key(v) for c in columns for v in (found["columns"].get(c, {}).get("values") or [])}


def _numbers(keys: set[str], *, several: int) -> dict[str, str]:
    """Guesses for whole numbers, from which of them there are."""
    numbers = {int(key): key for key in keys if re.fullmatch(r"-?\d{1,3}", key)}
    if keys == {"true", "false"}:
        return {"true": "a", "false": "b"}
    if not numbers:
        return {}
    low, high = min(numbers), max(numbers)
    if several > 2:
        first = 0 if low == 0 else 1
        return {key: f"r{n - first + 1}" for n, key in numbers.items() if 0 <= n - first < several}
    if low < 0:
        if low < -3 or high > 3:
            return {}
        strong = low < -1 or high > 1
        return {
            key: "tie" if not n else ("a" if n < 0 else "b") + (str(abs(n)) if strong else "")
            for n, key in numbers.items()
        }
    # 0 and 1 count the sides from 0, else from 1.
    known = {0: "a", 1: "b"} if (low, high) in ((0, 0), (0, 1)) else {0: "tie", 1: "a", 2: "b"}
    if high == 3:
        known = {1: "a", 2: "b", 3: "tie", 0: "none"}
    return {numbers[n]: known[n] for n in numbers if n in known}
