"""What metrics.json says beyond its table: calibration, robustness, what was read, annotators, early stopping.

Every reader gives None where a version has no such part (an older trainer made it), and None for a number that is
missing in it: a page shows what is there and never fails on the rest.
"""

import math
from dataclasses import dataclass
from typing import Any

ANNOTATORS_SHOWN = 20
FAILURES_SHOWN = 3


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _number(value: Any) -> float | None:
    """A finite number, or the one under "value"; None for anything else."""
    if isinstance(value, dict):
        value = value.get("value")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def _count(value: Any) -> int | None:
    number = _number(value)
    return None if number is None else round(number)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


# --- Calibration ---


@dataclass(frozen=True)
class Bin:
    """Pairs with a predicted probability in low..high: its mean, and the mean share of votes; None while n is 0."""

    low: float
    high: float
    n: int
    predicted: float | None
    observed: float | None


@dataclass(frozen=True)
class CalibrationRow:
    """One measure before and after; less is better for each of them."""

    name: str
    before: float | None
    after: float | None


@dataclass(frozen=True)
class Calibration:
    """Held-out probabilities against vote shares, as the network gave them and as they are served.

    `after` is empty (and so are the rows' `after`) where the version was not calibrated: `before` is what it serves.
    """

    method: str
    parameters: str
    fitted_on: int | None
    fitted_on_levels: int | None
    note: str
    rows: list[CalibrationRow]
    before: list[Bin]
    after: list[Bin]

    @property
    def bins(self) -> list[tuple[Bin, Bin | None]]:
        """The table's rows: each bin before, and the same bin after."""
        if len(self.before) != len(self.after):
            return [(each, None) for each in self.before]
        return list(zip(self.before, self.after, strict=True))


_CALIBRATION_METHODS = {
    "temperature": "temperature scaling",
    "beta_cdf": "a monotone recalibration of the rating distribution (a beta curve over its cumulative shares)",
}
_MEASURES = (
    ("ece", "Calibration error (ECE)"),
    ("ece_equal_mass", "Calibration error, bins of equal mass"),
    ("nll", "Log loss against vote shares (NLL), in nats"),
    ("brier", "Squared error against vote shares (Brier)"),
)


def calibration(metrics: dict[str, Any]) -> Calibration | None:
    """How probable outcomes were held to be, and how often they came; None without a bin that holds a pair."""
    held_out = _object(metrics.get("held_out"))
    found = _object(held_out.get("calibration"))
    measured = _object(found.get("before")) or _object(held_out.get("pairs"))
    served = _object(found.get("after")) if found.get("method") else {}
    before, after = _bins(measured), _bins(served)
    if not any(each.n for each in before):
        return None
    method = _text(found.get("method"))
    rows = [
        CalibrationRow(name, _number(measured.get(key)), _number(served.get(key))) for key, name in _MEASURES
    ]
    levels = [_number(_object(each.get("levels")).get("rps")) for each in (measured, served)]
    rows.append(CalibrationRow("Level error (ranked probability score, RPS)", *levels))
    return Calibration(
        method=_CALIBRATION_METHODS.get(method, method.replace("_", " ")),
        parameters=", ".join(
            f"{name} {number:.3g}"
            for name, value in _object(found.get("parameters")).items()
            if (number := _number(value)) is not None
        ),
        fitted_on=_count(found.get("fitted_on")),
        fitted_on_levels=_count(found.get("fitted_on_levels")),
        note=_text(found.get("note")),
        rows=[row for row in rows if row.before is not None or row.after is not None],
        before=before,
        after=after,
    )


def _bins(measured: dict[str, Any]) -> list[Bin]:
    bins = []
    for each in _objects(_object(measured.get("ece")).get("bins")):
        low, high = _number(each.get("low")), _number(each.get("high"))
        if low is not None and high is not None:
            bins.append(
                Bin(
                    low=low,
                    high=high,
                    n=_count(each.get("n")) or 0,
                    predicted=_number(each.get("predicted")),
                    observed=_number(each.get("observed")),
                )
            )
    return bins


# --- Robustness ---

# A name that a newer trainer adds stands as it is, with spaces.
_ATTACKS = {
    "score_appended": "“Score: 9” at the end",
    "score_prepended": "“Score: 9” at the start",
    "header_appended": "“### Score: 9” at the end",
    "disguised_header": "“### Score: 9” in disguise",
    "rubric": "a made-up rubric with full marks",
    "verdict_json": "a made-up verdict in JSON",
    "end_markers": "end markers of language models",
    "chat_turn": "a made-up turn of the assistant",
    "instruction": "“ignore all previous instructions”",
    "praise": "praise of itself",
    "other_words": "claims, pleas and orders in unforeseen words",
}
_ANSWERS = {
    "empty": "empty",
    "punctuation": "punctuation alone",
    "opener": "an opener alone (“Sure! Here is”)",
    "copied_prompt": "a copy of the prompt",
    "constant": "always “I don't know.”",
    "repeated_word": "one word repeated",
}
_TEMPLATES = {
    "without_prompt": "without the prompt",
    "another_role": "with other names of roles",
    "another_header": "with another header",
    "another_system": "with another system turn",
}


@dataclass(frozen=True)
class Wording:
    """One of an attack's texts that raised scores most, by how much and on how many responses."""

    text: str
    mean_shift: float
    n: int | None


@dataclass(frozen=True)
class AttackRow:
    """What adding a text that is no answer does to scores. `missed`: beyond the goal."""

    name: str
    unseen: bool  # hardening did not train against this one, though it did against others
    mean_shift: float | None
    max_shift: float | None
    flip_rate: float | None
    orders: int | None
    shift_missed: bool
    flips_missed: bool
    worst: list[Wording]


@dataclass(frozen=True)
class AnswerRow:
    """An answer that says nothing: the share of its scores that lie in bad."""

    name: str
    in_bad_share: float | None
    mean_score: float | None
    n: int | None
    missed: bool


@dataclass(frozen=True)
class Failures:
    """What missed its goal and has the same remedy; `more` are folded away."""

    remedy: str
    first: list[str]
    more: list[str]


@dataclass(frozen=True)
class Robustness:
    """The suite's report as a page shows it. Shifts are in `unit`."""

    passed: bool
    failures: list[str]
    unit: str
    responses: int | None
    trained_on: bool
    bad: str
    shift_goal: float | None
    flip_goal: float | None
    exact_goal: float | None
    attacks: list[AttackRow]
    answers: list[AnswerRow]
    length_correlation: float | None
    matched_accuracy: float | None
    matched_n: int | None
    longer_people: float | None
    longer_model: float | None
    order_swap: float | None
    padding: float | None
    batch: float | None
    by_remedy: list[Failures]
    templates: list[tuple[str, float | None]]
    style: list[tuple[str, float | None]]


def robustness(metrics: dict[str, Any]) -> Robustness | None:
    """What moves a score that should not; None for versions that were not examined."""
    found = _object(metrics.get("robustness"))
    if not isinstance(found.get("passed"), bool):
        return None
    goals, length = _object(found.get("goals")), _object(found.get("length"))
    longer, invariance = _object(length.get("longer_preferred")), _object(found.get("invariance"))
    shift_goal, flip_goal = _number(goals.get("mean_shift")), _number(goals.get("flip_rate"))
    ratings = found.get("unit") != "sd"
    attacks = _object(found.get("attacks"))
    failures = [text for text in found.get("failures") or [] if isinstance(text, str)]
    hardened = any(_object(effect).get("trained") for effect in attacks.values())
    return Robustness(
        passed=found["passed"],
        failures=failures,
        unit="ratings" if ratings else "standard deviations of the scores",
        responses=_count(found.get("responses")),
        trained_on=found.get("on") == "all",
        bad="in the level “bad”" if ratings else "among the lowest tenth of its prompt’s scores",
        shift_goal=shift_goal,
        flip_goal=flip_goal,
        exact_goal=_number(goals.get("exact")),
        attacks=[
            _attack(name, _object(effect), hardened, shift_goal, flip_goal)
            for name, effect in attacks.items()
        ],
        answers=[_answer(name, _object(effect)) for name, effect in _object(found.get("degenerate")).items()],
        length_correlation=_number(length.get("correlation")),
        matched_accuracy=_number(length.get("matched_accuracy")),
        matched_n=_count(_object(length.get("matched_accuracy")).get("n")),
        longer_people=_number(longer.get("people")),
        longer_model=_number(longer.get("model")),
        order_swap=_number(_object(found.get("order_swap")).get("max_difference")),
        padding=_number(invariance.get("padding_max")),
        batch=_number(invariance.get("batch_max")),
        by_remedy=_by_remedy(failures),
        templates=[
            (_named(_TEMPLATES, name), correlation)
            for name, value in _object(found.get("templates")).items()
            if (correlation := _number(_object(value).get("correlation"))) is not None
        ],
        style=[
            (name.replace("_", " "), _number(value)) for name, value in _object(found.get("style")).items()
        ],
    )


def _by_remedy(failures: list[str]) -> list[Failures]:
    """A failure's last part, after a semicolon, says what helps; most of them say the same."""
    groups: dict[str, list[str]] = {}
    for failure in failures:
        what, semicolon, remedy = failure.rpartition("; ")
        groups.setdefault(remedy if semicolon else "", []).append(f"{what}." if semicolon else failure)
    return [
        Failures(remedy[:1].upper() + remedy[1:], texts[:FAILURES_SHOWN], texts[FAILURES_SHOWN:])
        for remedy, texts in groups.items()
    ]


def _attack(
    name: str, effect: dict[str, Any], hardened: bool, shift_goal: float | None, flip_goal: float | None
) -> AttackRow:
    mean, flips = _number(effect.get("mean_shift")), _number(effect.get("flip_rate"))
    return AttackRow(
        name=_named(_ATTACKS, name),
        unseen=hardened and not effect.get("trained"),
        mean_shift=mean,
        max_shift=_number(effect.get("max_shift")),
        flip_rate=flips,
        orders=_count(effect.get("orders")),
        shift_missed=mean is not None and shift_goal is not None and abs(mean) >= shift_goal,
        flips_missed=flips is not None and flip_goal is not None and flips > flip_goal,
        worst=_wordings(effect.get("worst")),
    )


def _wordings(found: Any) -> list[Wording]:
    rows = [_object(row) for row in found] if isinstance(found, list) else []
    return [
        Wording(row["text"], shift, _count(row.get("n")))
        for row in rows
        if isinstance(row.get("text"), str) and (shift := _number(row.get("mean_shift"))) is not None
    ]


def _answer(name: str, effect: dict[str, Any]) -> AnswerRow:
    share = _number(effect.get("in_bad_share"))
    return AnswerRow(
        name=_named(_ANSWERS, name),
        in_bad_share=share,
        mean_score=_number(effect.get("mean_score")),
        n=_count(effect.get("n")),
        missed=share is not None and share < 1,
    )


def _named(names: dict[str, str], name: str) -> str:
    return names.get(name, name.replace("_", " "))


# --- What was read ---


@dataclass(frozen=True)
class Reading:
    """What of the texts the model could not read. `notes`: sentences with their remedy; shares are of 1. `read_as`: in
    which frame a causal model reads them."""

    notes: list[str]
    responses: int
    truncated: int
    cut: int
    unknown: int
    max_length: int | None
    read_as: str

    @property
    def truncated_share(self) -> float:
        return self.truncated / self.responses if self.responses else 0.0


_LEFT_OUT = {
    "reads_alike": "their pairs read alike",
    "crosses_split": "their pairs lie across the split",
    "contradicts_levels": "verdict and levels contradict each other",
}


def left_out(metrics: dict[str, Any]) -> list[tuple[int, str]]:
    """How many labels of the training side were not learned from, and why."""
    dropped = _object(_object(metrics.get("training")).get("dropped"))
    return [(count, _named(_LEFT_OUT, reason)) for reason, each in dropped.items() if (count := _count(each))]


def reading(metrics: dict[str, Any]) -> Reading | None:
    """None for versions of trainers that did not count it."""
    found = _object(metrics.get("reading"))
    if (responses := _count(found.get("responses"))) is None:
        return None
    return Reading(
        notes=[note for note in found.get("notes") or [] if isinstance(note, str)],
        responses=responses,
        truncated=_count(found.get("truncated")) or 0,
        cut=_count(found.get("cut")) or 0,
        unknown=_count(found.get("unknown")) or 0,
        max_length=_count(found.get("max_length")),
        read_as=found["read_as"] if isinstance(found.get("read_as"), str) else "",
    )


# --- Annotators ---


@dataclass(frozen=True)
class AnnotatorRow:
    """One annotator as the model sees them: estimates, not facts."""

    name: str
    judgements: int | None
    error_rate: float
    left_share: float | None
    # Whose judgements these are, where the name still is somebody's.
    person: int | None


@dataclass(frozen=True)
class Annotators:
    """Those with the highest estimated error rate first; `more` are folded away, `unlisted` were left out."""

    first: list[AnnotatorRow]
    more: list[AnnotatorRow]
    unlisted: int
    base: list[tuple[str, float]]

    @property
    def listed(self) -> int:
        return len(self.first) + len(self.more)


_BASE = {"a_left": "the left response", "a_right": "the right response", "tie": "tie", "both_bad": "both bad"}


def annotators(metrics: dict[str, Any], people: dict[str, int] | None = None) -> Annotators | None:
    """How far each annotator was relied on; None where the training took everybody at their word.

    `people`: primary keys by the names of snapshots.
    """
    rows = [
        AnnotatorRow(
            name=str(each.get("annotator", "?")),
            judgements=_count(each.get("judgements")),
            error_rate=error,
            left_share=_number(each.get("left_share")),
            person=(people or {}).get(str(each.get("annotator"))),
        )
        for each in _objects(metrics.get("annotators"))
        if (error := _number(each.get("error_rate"))) is not None
    ]
    if not rows:
        return None
    rows.sort(key=lambda row: (-row.error_rate, -(row.judgements or 0), row.name))
    base = _object(metrics.get("base"))
    return Annotators(
        first=rows[:ANNOTATORS_SHOWN],
        more=rows[ANNOTATORS_SHOWN:],
        unlisted=max(0, (_count(metrics.get("annotator_count")) or 0) - len(rows)),
        base=[
            (words, share) for key, words in _BASE.items() if (share := _number(base.get(key))) is not None
        ],
    )


# --- Early stopping ---


@dataclass(frozen=True)
class EarlyStopping:
    """Which step's weights were kept. `history`: (step, NLL, accuracy) on the training groups kept for this.

    best_step None: it was asked for, but there was nothing to look at, and `note` says why.
    """

    best_step: int | None
    note: str
    stopped_at: int | None
    patience: int | None
    history: list[tuple[int, float, float | None]]


def early_stopping(metrics: dict[str, Any]) -> EarlyStopping | None:
    """None where the training ran all its steps by intent."""
    found = _object(metrics.get("early_stopping"))
    best, note = _count(found.get("best_step")), _text(found.get("note"))
    if best is None and not note:
        return None
    return EarlyStopping(
        best_step=best,
        note=note,
        stopped_at=_count(found.get("stopped_at")),
        patience=_count(found.get("patience")),
        history=[
            (step, nll, _number(each.get("accuracy")))
            for each in _objects(found.get("history"))
            if (step := _count(each.get("step"))) is not None
            and (nll := _number(each.get("nll"))) is not None
        ],
    )
