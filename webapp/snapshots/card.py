"""The data card: README.md beside the data, which also tells `datasets.load_dataset` what to load and its types."""

import json
from typing import Any

from webapp.corpus.models import Project
from webapp.labels.agreement import LEVELS, VERDICTS, Agreement, krippendorff_alpha
from webapp.labels.models import Judgement, QualityLabel
from webapp.snapshots.models import Export

# Agreement is computed on the newest labels: enough for an interval, and quick.
AGREEMENT_ROWS = 50_000

_DESCRIPTIONS = {
    Export.Format.JUDGEMENTS: """
One row per judgement, nothing aggregated. `verdict` names response a or b, whatever side it was shown on (`left`
says which stood left). `level_a` and `level_b` are the same annotator's quality levels.""",
    Export.Format.CALIPER: """
Caliper JSONL: prompts, responses, pairs, votes and levels, one object per line. It can be imported into another
project, which then has the same snapshot digest. Corrected and retracted labels are not in it.""",
    Export.Format.TRL_EXPLICIT: """
TRL preference, standard, explicit prompt. A prompt of several messages is one text, written as a transcript
(“\\n\\nHuman: … \\n\\nAssistant: …”).""",
    Export.Format.TRL_IMPLICIT: """
TRL preference, standard, implicit prompt: both texts are whole transcripts (“\\n\\nHuman: … \\n\\nAssistant: …”)
with the same beginning.""",
    Export.Format.TRL_CONVERSATIONAL: """
TRL preference, conversational, explicit prompt: lists of {role, content}.""",
    Export.Format.TRL_CONVERSATIONAL_IMPLICIT: """
TRL preference, conversational, implicit prompt: lists of {role, content} with the same beginning.""",
    Export.Format.TRL_UNPAIRED: """
TRL unpaired: `label` is true for the level good and for the preferred side, false for the level bad, for the other
side, and for both sides of “both bad”.""",
}

_REASONS = {
    "tie": "ties",
    "both_bad": "“both bad”",
    "skip": "skipped",
    "no majority": "no verdict had a majority",
    "different prompts": "the two responses answer different prompts",
    "level normal": "the level normal, which is neither good nor bad",
}


def left_out_words(left_out: dict[str, int]) -> list[str]:
    """What was left out and how often, in words, the most frequent first."""
    ranked = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    return [f"{count:,} × {_REASONS.get(reason, reason)}" for reason, count in ranked if count]


def agreement_lines(project: Project) -> list[str]:
    """Krippendorff's alpha of verdicts and of levels, in words."""
    verdicts = Judgement.objects.verdicts().filter(pair__project=project)
    levels = QualityLabel.objects.current().filter(response__project=project)
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


def _alpha(alpha: Agreement, units: str) -> str:
    if alpha.value is None:
        return f"not defined ({alpha.reason})"
    interval = "" if alpha.low is None else f", 95 % interval {alpha.low:.2f} to {alpha.high:.2f}"
    return f"{alpha.value:.2f}{interval}, {alpha.units:,} {units} with two or more"


def data_card(
    *,
    project: Project,
    format: str,
    aggregation: str,
    file_type: str,
    data_file: str,
    schema: Any,
    report: dict[str, Any],
    agreement: list[str],
) -> str:
    """README.md with its YAML front matter. Values are written as JSON, which is YAML."""
    canonical = format in (Export.Format.JUDGEMENTS, Export.Format.CALIPER)
    front = ["---", f"pretty_name: {json.dumps(project.name)}", "license: other"]
    usage = []
    if schema is not None:
        types = csv_features(schema) if file_type == Export.FileType.CSV else features(schema)
        front += ["configs:", "- config_name: default", "  data_files:", "  - split: train"]
        front += [f"    path: {data_file}", "dataset_info:", "  features:"]
        front += [f"  - {json.dumps(feature)}" for feature in types]
        usage = [
            "```python",
            "from datasets import load_dataset",
            'load_dataset("path/of/this/folder")',
            "```",
            "",
        ]
    split = "`group` (topic or prompt)" if canonical else "prompt"
    return "\n".join(
        [
            *front,
            "---",
            "",
            f"# {project.name}: {Export.Format(format).label}",
            _DESCRIPTIONS[Export.Format(format)],
            "",
            *usage,
            "## What is in it",
            "",
            *_content_lines(format, aggregation, file_type, data_file, report, canonical=canonical),
            "",
            "## How far people agree",
            "",
            *agreement,
            "",
            "## Where it comes from",
            "",
            f"- project `{project.slug}`; snapshot `{report['snapshot']}`: equal digests mean equal labels",
            "- annotators are named by their user names, or by the names they were imported with",
            f"- split training and test data by {split}, never by row: rows share texts",
            "",
            "## Licence",
            "",
            "The licence of the prompts and responses is that of their sources. State it here before you publish.",
            "",
        ]
    )


def _content_lines(
    format: str, aggregation: str, file_type: str, data_file: str, report: dict[str, Any], *, canonical: bool
) -> list[str]:
    counts = report["counts"]
    source = ", ".join(
        f"{counts[kind]:,} {kind}" for kind in ("prompts", "responses", "judgements", "levels")
    )
    lines = [
        f"- {report['rows']:,} rows in `{data_file}`",
        f"- from a project of {source} by {counts['annotators']:,} annotators",
    ]
    if not canonical:
        words = left_out_words(report["left_out"])
        lines.append(f"- {Export.Aggregation(aggregation).label}")
        lines.append(
            f"- left out, having no place in this format: {'; '.join(words) if words else 'nothing'}"
        )
    if format == Export.Format.JUDGEMENTS:
        history = "and" if report["superseded"] else "without"
        lines.append(f"- current judgements with skips, {history} those that were corrected or taken back")
    if file_type == Export.FileType.CSV:
        lines.append(
            "- a cell that a spreadsheet would run (= + - @, also full-width or behind blanks and invisible "
            "characters; control characters) begins with a ' that is not part of the text; take that one away"
        )
    return lines


def features(schema: Any) -> list[dict[str, Any]]:
    """The schema as `dataset_info.features` of a data card, so that an empty column keeps its type."""
    return [{"name": field.name, **_feature(field.type)} for field in schema]


def csv_features(schema: Any) -> list[dict[str, Any]]:
    """The same for CSV, which knows texts, numbers (that may be absent) and flags."""
    import pyarrow as pa

    def kind(field: Any) -> str:
        if pa.types.is_boolean(field.type):
            return "bool"
        return "float64" if pa.types.is_integer(field.type) or pa.types.is_floating(field.type) else "string"

    return [{"name": field.name, "dtype": kind(field)} for field in schema]


def _feature(kind: Any) -> dict[str, Any]:
    import pyarrow as pa

    if pa.types.is_list(kind):
        inner = kind.value_type
        if pa.types.is_struct(inner):
            return {"list": [{"name": field.name, **_feature(field.type)} for field in inner]}
        return {"list": str(inner)}
    return {"dtype": str(kind).replace("double", "float64")}
