"""The data card: README.md beside the data, which also tells `datasets.load_dataset` what to load and its types."""

import json
from collections.abc import Container
from typing import Any

from webapp.corpus.models import Project
from webapp.corpus.queued import ROLLOUTS_FIRST
from webapp.importing.origins import origins_of
from webapp.labels.agreement import Agreement, krippendorff_alpha
from webapp.labels.models import LEVELS, VERDICTS, Judgement, QualityLabel
from webapp.snapshots.formats import Format
from webapp.snapshots.models import Export
from webapp.snapshots.writing import is_json

# Agreement is computed on the newest labels: enough for an interval, and quick.
AGREEMENT_ROWS = 50_000

_REASONS = {
    "tie": "ties",
    "both_bad": "“both bad”",
    "skip": "skipped",
    "no majority": "no verdict had a majority",
    "both sides": "one response is held out and the other isn't",
    "different prompts": "the two responses answer different prompts",
    "level normal": "the level normal, which is neither good nor bad",
    "comparison": "judgements of pairs: this format holds scores, not comparisons",
    "no prediction": "responses for which the version has no prediction",
    "prompt without levels": "prompts none of whose responses has a level",
}

_CHANGES = {
    "ambiguous": "rows whose texts look like a transcript themselves (a speaker's mark such as “Human:”), or whose "
    "answers both begin with the prompt: written exactly, but a reader may part them elsewhere",
    "tools as text": "rows with tools, tool calls or names, written as text: only the messages formats and Caliper "
    "JSONL keep them apart",
    "turns as text": "rows with a prompt or answer of several turns, written as a transcript",
    "answer as text": "rows with an answer of several messages, written as a transcript",
    "same answers": "rows whose two answers are the same text: an import refuses them",
    "same first turn": "rows whose answers of several turns begin with the same turn: a reader takes it for the "
    "prompt's last, since nothing here says where the prompt ends",
    "strength unknown": "rows whose strength nobody gave, written as 1",
    "strength averaged": "rows whose strength is the rounded mean of several votes",
    "response without level": "responses that nobody gave a level, with an empty score",
    "levels averaged": "responses whose score is the mean of different levels",
    "comments joined": "responses whose several comments stand in one text",
}


def left_out_words(left_out: dict[str, int]) -> list[str]:
    """What was left out and how often, in words, the most frequent first."""
    ranked = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    return [f"{count:,} × {_REASONS.get(reason, reason)}" for reason, count in ranked if count]


def changed_words(changed: dict[str, int]) -> list[str]:
    """What is in the file, but not as it is stored, in words."""
    ranked = sorted(changed.items(), key=lambda item: (-item[1], item[0]))
    return [f"{count:,} × {_CHANGES.get(reason, reason)}" for reason, count in ranked if count]


def agreement_lines(project: Project) -> list[str]:
    """Krippendorff's alpha of verdicts and of levels, in words."""
    verdicts = Judgement.objects.of(project).verdicts()
    levels = QualityLabel.objects.of(project).current()
    votes = list(verdicts.order_by("-pk").values_list("pair_id", "annotator_id", "verdict")[:AGREEMENT_ROWS])
    marks = list(levels.order_by("-pk").values_list("response_id", "annotator_id", "level")[:AGREEMENT_ROWS])
    of_verdicts = krippendorff_alpha(votes, categories=VERDICTS)
    of_levels = krippendorff_alpha(marks, metric="ordinal", categories=LEVELS)
    newest = (
        [f"- of the newest {AGREEMENT_ROWS:,} labels:"] if AGREEMENT_ROWS in (len(votes), len(marks)) else []
    )
    return [
        *newest,
        f"- Krippendorff's alpha of verdicts (nominal): {_alpha(of_verdicts, 'pairs')}",
        f"- Krippendorff's alpha of levels (ordinal): {_alpha(of_levels, 'responses')}",
    ]


def rollout_lines(project: Project) -> list[str]:
    """How many judgements are of rollouts, which were chosen and not just imported; nothing where there are none."""
    verdicts = Judgement.objects.of(project).verdicts().filter(pair__priority=ROLLOUTS_FIRST)
    if not (number := verdicts.count()):
        return []
    return [
        f"- {number:,} of the project's judgements are of pairs that a reward server reported while a policy trained "
        "(author `rollout`): they were picked for their uncertainty, their style or at random, so they are no fair "
        "sample of what the policy writes"
    ]


def _alpha(alpha: Agreement, units: str) -> str:
    if alpha.value is None:
        return f"not defined ({alpha.reason})"
    interval = "" if alpha.low is None else f", 95 % interval {alpha.low:.2f} to {alpha.high:.2f}"
    return f"{alpha.value:.2f}{interval}, {alpha.units:,} {units} with two or more"


def data_card(
    *,
    project: Project,
    made: Format,
    aggregation: str,
    file_type: str,
    data_files: dict[str, str],
    schema: Any,
    like_times: set[str],
    safe: bool,
    report: dict[str, Any],
    agreement: list[str],
    notes: list[str],
) -> str:
    """README.md with its YAML front matter. Values are written as JSON, which is YAML."""
    front = ["---", f"pretty_name: {json.dumps(project.name)}", "license: other"]
    usage = []
    if schema is not None:
        is_csv = file_type == Export.FileType.CSV
        types = csv_features(schema) if is_csv else features(schema, like_times)
        front += ["configs:", "- config_name: default", "  data_files:"]
        for name, path in data_files.items():
            front += [f"  - split: {name}", f"    path: {path}"]
        front += csv_options(schema) if is_csv else []
        front += ["dataset_info:", "  features:", *(f"  - {json.dumps(feature)}" for feature in types)]
        usage = ["```python", *_usage(safe=safe), "```", ""]
        if any("json" in feature.values() for feature in types):
            usage += ["Columns of JSON objects need `datasets` 4.7 or later.", ""]
    split = "`group` (topic or prompt)" if made.name in ("judgements", "caliper", "predictions") else "prompt"
    return "\n".join(
        [
            *front,
            "---",
            "",
            f"# {project.name}: {made.label}",
            made.description,
            "",
            *usage,
            "## What is in it",
            "",
            *_content_lines(made, aggregation, data_files, report),
            *_file_lines(schema, file_type, safe=safe),
            *notes,
            f"- Imported again: {made.again}",
            "",
            "## Columns",
            "",
            *(f"- `{name}`: {words}" for name, words in made.columns.items() if _has(schema, name)),
            "",
            "## How far people agree",
            "",
            *agreement,
            "",
            "## Where it comes from",
            "",
            f"- project `{project.slug}`; snapshot `{report['snapshot']}`: equal digests mean equal labels",
            *(f"- imported from {words}" for words in origins_of(project)),
            "- annotators are named by their user names, or by the names they were imported with",
            *(
                [f"- split training and test data by {split}, never by row: rows share texts"]
                if len(data_files) == 1
                else []
            ),
            "",
            "## Licence",
            "",
            "The licence of the prompts and responses is that of their sources. State it here before you publish.",
            "",
        ]
    )


def _has(schema: Any, name: str) -> bool:
    return schema is None or name in schema.names or "…" in name


def _usage(*, safe: bool) -> list[str]:
    lines = [
        "from datasets import load_dataset",
        "",
        'data = load_dataset("path/of/this/folder", split="train")',
    ]
    if not safe:
        return lines
    # The rule of webapp.snapshots.writing.safe_cell, for whoever has nothing but the file.
    return [
        "import unicodedata",
        *lines,
        "",
        "def runs(text):  # whether a spreadsheet would run it",
        '    if text.startswith(("\\t", "\\r", "\\n")):',
        "        return True",
        '    seen = (c for c in text if not unicodedata.category(c).startswith(("Z", "Cc", "Cf")))',
        '    return unicodedata.normalize("NFKC", next(seen, " ")) in "=+-@"',
        "",
        "def plain(value):  # take the apostrophe away",
        '    quoted = isinstance(value, str) and value.startswith("\'") and runs(value.lstrip("\'"))',
        "    return value[1:] if quoted else value",
        "",
        "data = data.map(lambda row: {name: plain(value) for name, value in row.items()})",
    ]


def _content_lines(
    made: Format, aggregation: str, data_files: dict[str, str], report: dict[str, Any]
) -> list[str]:
    counts = report["counts"]
    source = ", ".join(
        f"{counts[noun]:,} {noun}" for noun in ("prompts", "responses", "judgements", "levels")
    )
    noun = "lines" if made.name == Export.Format.CALIPER else "rows"
    lines = [
        *(f"- {report['splits'][split]:,} {noun} in `{path}`" for split, path in data_files.items()),
        f"- from a project of {source} by {counts['annotators']:,} annotators",
    ]
    if len(data_files) > 1:
        lines.append(
            "- the split `test` has the groups (or prompts) that this project's trainings hold out, `train` all "
            "others; no prompt stands on both sides"
        )
    if made.aggregates:
        lines.append(f"- {Export.Aggregation(aggregation).label}")
    if made.name == Export.Format.JUDGEMENTS:
        history = "and" if report["superseded"] else "without"
        lines.append(f"- current judgements with skips, {history} those that were corrected or taken back")
    left_out, changed = left_out_words(report["left_out"]), changed_words(report["changed"])
    lines.append(f"- left out, having no place in this format: {'; '.join(left_out) or 'nothing'}")
    lines.append(f"- written otherwise than stored: {'; '.join(changed) or 'nothing'}")
    return lines


def _file_lines(schema: Any, file_type: str, *, safe: bool) -> list[str]:
    if file_type != Export.FileType.CSV:
        return []
    lines = [
        "- texts stand in CSV exactly as they are stored; lists are JSON; where nothing is known the cell is empty, "
        "and the settings above tell `datasets` in which columns that means absent"
    ]
    if safe:
        lines.append(
            "- made safe for spreadsheets: a cell that a spreadsheet would run (= + - @, also full-width or behind "
            "blanks and invisible characters; control characters) begins with a ' that is not part of the text. The "
            "code above takes it away"
        )
    else:
        lines.append(
            "- a spreadsheet may run cells that begin with = + - or @: do not open the file in one, or export it again "
            "“safe for spreadsheets”"
        )
    return lines


def features(schema: Any, like_times: Container[str] = ()) -> list[dict[str, Any]]:
    """The schema as `dataset_info.features` of a data card, so that an empty column keeps its type.

    A text column that a JSONL reader would take for times is declared as JSON, which it leaves alone.
    """
    return [
        {"name": field.name, **_feature(field.type, as_json=field.name in like_times)} for field in schema
    ]


def csv_features(schema: Any) -> list[dict[str, Any]]:
    """The same for CSV, which knows texts, numbers (that may be absent) and flags."""
    import pyarrow as pa

    def dtype(field: Any) -> str:
        if pa.types.is_boolean(field.type):
            return "bool"
        return "float64" if _is_number(field.type) else "string"

    return [{"name": field.name, "dtype": dtype(field)} for field in schema]


# Text columns of which an empty cell means that nothing is known; elsewhere it is an empty text.
_ABSENT = frozenset({"left", "policy", "level_a", "level_b", "shown_at", "tools", "messages_a", "messages_b"})


def csv_options(schema: Any) -> list[str]:
    """What `datasets` has to know so that "NA", "null" and blanks stay texts."""
    import pyarrow as pa

    absent = {
        field.name: [""]
        for field in schema
        if field.name in _ABSENT or _is_number(field.type) or pa.types.is_timestamp(field.type)
    }
    return ["  keep_default_na: false", "  skip_blank_lines: false", f"  na_values: {json.dumps(absent)}"]


def _is_number(dtype: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_integer(dtype) or pa.types.is_floating(dtype)


def _feature(dtype: Any, *, as_json: bool = False) -> dict[str, Any]:
    import pyarrow as pa

    if pa.types.is_list(dtype):
        inner = dtype.value_type
        if is_json(inner) or as_json:
            return {"list": "json"}
        if pa.types.is_struct(inner):
            return {"list": [{"name": field.name, **_feature(field.type)} for field in inner]}
        return {"list": str(inner)}
    if pa.types.is_struct(dtype):
        return {"struct": [{"name": field.name, **_feature(field.type)} for field in dtype]}
    return {"dtype": "json" if is_json(dtype) or as_json else str(dtype).replace("double", "float64")}
