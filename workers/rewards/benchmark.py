"""Measure a saved model on benchmarks: `python -m workers.rewards.benchmark MODEL_DIR FILE...`.

FILE is JSON lines, a JSON array, Parquet or CSV (each perhaps gzipped) in the form of RewardBench 1 or 2, RM-Bench,
RMB, JudgeBench, PPE, or preferences as TRL reads them; the columns tell which. Files of one benchmark are one. Printed
are its accuracy as its authors count it, and by subset, with 95 % intervals over prompts, beside "the longer one
wins". A row that can't be read is named and left out.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from .artifacts.save import ArtifactError, load_model
from .config import Refused
from .data.benchmarks import FORMATS, Benchmark, read_benchmarks, subset_counts
from .data.near_duplicates import near_duplicates
from .data.responses import UNKNOWN_SHARE, BadInput
from .data.snapshot import Snapshot, read_snapshot
from .evaluation.benchmarks import compared_pairs, measure
from .files import write_text
from .generative.judging import Judge
from .generative.saved import is_judge, load_judge
from .models.embeddings import cache_folder, embed, embed_cached
from .models.encode import MICRO_BATCH_TOKENS, ResponseEncoder
from .models.predict import distributions, predictions
from .models.reward_model import RewardModel, weights_digest
from .text.sections import Encoded, Template
from .training.progress import Progress, Stop, Stopped

REFUSALS_TOLD = 100
STOPPED_EXIT = 143


def described(benchmark: Benchmark) -> dict[str, Any]:
    """What is known of a benchmark before anything is scored."""
    return {
        "format": benchmark.format,
        "items": len(benchmark.items),
        "responses": sum(len(item.responses) for item in benchmark.items),
        "subsets": subset_counts(benchmark.items),
        "refused": len(benchmark.refused),
        "refusals": benchmark.refused[:REFUSALS_TOLD],
        "people_tied": benchmark.ties,
    }


def measure_model(
    model: RewardModel,
    template: Template,
    benchmark: Benchmark,
    *,
    trained_on: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """`described`, what the model can read of it, how near it is to a snapshot it was trained on, and `measure`.

    Each distinct response is scored once. reading: {responses (distinct), truncated, cut (the response itself), unknown
    (share of tokens), compared, alike (comparisons whose two sides the model reads the same)}. near_duplicates: {n, and
    the overall line without them}, None without `trained_on`. Raises Refused if the snapshot can't be read.
    """
    return _measured(benchmark, *_scores(model, template, benchmark, progress), trained_on)


def measure_judge(
    judge: Judge,
    benchmark: Benchmark,
    *,
    trained_on: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """The same of a generative model, which votes on the responses of an item together.

    `reading` has "unparsed" besides, the share of answers that could not be read; what of a text is cut it doesn't say.
    """
    rows = [
        {
            "response_id": f"{number}/{place}",
            "prompt_id": str(number),
            "group": str(number),
            "messages": item.messages,
            "tools": item.tools,
            "answer": None,
            "text": text,
        }
        for number, item in enumerate(benchmark.items)
        for place, text in enumerate(item.responses)
    ]
    scored, votes = judge.voted(Snapshot(rows, [], []), say=progress)
    of = {row["response_id"]: row["score"] for row in votes.predictions(rows)}
    scores = [
        [of[f"{number}/{place}"] for place in range(len(item.responses))]
        for number, item in enumerate(benchmark.items)
    ]
    compared = [
        (item.responses[a], item.responses[b]) for item in benchmark.items for a, b in compared_pairs(item)
    ]
    reading = {
        "responses": len(rows),
        "truncated": 0,
        "cut": 0,
        "unknown": 0.0,
        "compared": len(compared),
        "alike": sum(a == b for a, b in compared),
        "unparsed": sum(one.parsed.scores is None for one in scored) / max(1, len(scored)),
    }
    return _measured(benchmark, scores, reading, trained_on)


def _measured(
    benchmark: Benchmark, scores: list[list[float]], reading: dict[str, Any], trained_on: Path | None
) -> dict[str, Any]:
    near = None
    if trained_on is not None:
        prompts = (row["messages"] for row in read_snapshot(trained_on).responses)
        seen = near_duplicates([item.messages for item in benchmark.items], prompts)
        near = {"n": sum(seen), "without": None}
        unseen = [place for place, one in enumerate(seen) if not one]
        others = Benchmark(benchmark.format, [benchmark.items[place] for place in unseen], [], 0)
        if any(seen) and any(compared_pairs(item) for item in others.items):
            near["without"] = measure(others, [scores[place] for place in unseen])["lines"][0]
    return {**described(benchmark), "reading": reading, "near_duplicates": near, **measure(benchmark, scores)}


def _scores(
    model: RewardModel, template: Template, benchmark: Benchmark, progress: Callable[[int, int], None]
) -> tuple[list[list[float]], dict[str, Any]]:
    """The score of each item's responses, and the "reading" object."""
    number: dict[tuple[str, str], int] = {}
    rows: list[dict[str, Any]] = []
    places: list[list[int]] = []
    for item in benchmark.items:
        prompt = template.prompt_text(item.messages, item.tools)
        places.append([number.setdefault((prompt, text), len(number)) for text in item.responses])
        for place, text in zip(places[-1], item.responses, strict=True):
            if place == len(rows):
                rows.append(
                    {"response_id": str(place), "messages": item.messages, "tools": item.tools, "text": text}
                )
    encoded = template.encode(rows)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder = ResponseEncoder(
        model.to(device), device, MICRO_BATCH_TOKENS[device.type], longest=template.max_length
    )
    # Of a frozen backbone trainings have left embeddings: other heads on it find those of this benchmark too.
    frozen = (cache_folder() / "embeddings" / weights_digest(model.backbone)[:32]).is_dir()
    features = (embed_cached if frozen else embed)(encoder, encoded, progress)
    found = [row["score"] for row in predictions(rows, encoded, distributions(model, features))]
    pairs = [
        (mine[a], mine[b])
        for item, mine in zip(benchmark.items, places, strict=True)
        for a, b in compared_pairs(item)
    ]
    return [[found[place] for place in mine] for mine in places], {
        "responses": len(rows),
        "truncated": sum(row.truncated for row in encoded),
        "cut": sum(row.cut for row in encoded),
        "unknown": sum(row.unknown for row in encoded) / max(1, sum(map(len, encoded))),
        "compared": len(pairs),
        "alike": sum(_alike(encoded[a], encoded[b]) for a, b in pairs),
    }


def _alike(a: Encoded, b: Encoded) -> bool:
    return a.ids == b.ids and a.pooled == b.pooled


def table(result: dict[str, Any]) -> str:
    """A result as a table to read."""
    width = max(12, *(len(line["name"]) + 2 for line in result["lines"]))
    rows = [
        f"{FORMATS[result['format']]}: {result['items']:,} items, {result['reading']['responses']:,} responses",
        f"{'':{width}}  accuracy  95 % interval  prompts  longer wins",
    ]
    for line in result["lines"]:
        name = ("" if line["kind"] == "overall" else "  ") + line["name"]
        interval = "" if line["low"] is None else f"{line['low']:.3f} - {line['high']:.3f}"
        rows.append(
            f"{name:{width}}  {_three(line['value']):>8}  {interval:>13}  {line['n']:>7,}  {_three(line['length']):>11}"
        )
    reading = result["reading"]
    notes = [
        (result["tied"] or 0, f"{result['tied'] or 0:.1%} of the comparisons have equal scores"),
        (reading["alike"], f"{reading['alike']:,} of {reading['compared']:,} comparisons read alike"),
        (reading["cut"], f"{reading['cut']:,} responses were cut to the model's length"),
        (
            reading["unknown"] >= UNKNOWN_SHARE,
            f"{reading['unknown']:.1%} of the tokens are unknown characters",
        ),
        (result["people_tied"], f"{result['people_tied']:,} pairs that people called equal were left out"),
        (result["refused"], f"{result['refused']:,} rows could not be read"),
    ]
    near = result["near_duplicates"]
    if near is not None:
        without = near["without"] and f"; without them overall {_three(near['without']['value'])}"
        notes.append((True, f"{near['n']:,} prompts are near those it was trained on{without or ''}"))
    rows += [text for counted, text in notes if counted]
    if (curve := result["best_of_n"]) is not None:
        rows.append(
            f"best of k, of {curve['items']:,} prompts with {curve['n']} responses or more (expected gold)"
        )
        rows.append(f"{'k':>5}  model  random  oracle  longest")
        for place, k in enumerate(curve["k"]):
            if k & (k - 1) == 0 or k == curve["n"]:
                rows.append(
                    f"{k:>5}  {curve['model'][place]:.3f}   {curve['random']:.3f}   {curve['oracle'][place]:.3f}    "
                    f"{curve['length'][place]:.3f}"
                )
    return "\n".join(rows)


def _three(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _said(log: Path | None) -> Callable[[int, int], None]:
    """Writes progress to the log, and raises Stopped when the process should end; does nothing without one."""
    if log is None:
        return lambda done, total: None
    progress, stop = Progress(log), Stop.listening()

    def say(done: int, total: int) -> None:
        progress.say("scoring", done, total)
        stop.check()

    return say


def main(arguments: Sequence[str]) -> int:
    """The command; exit status 0 measured, 1 measured but for rows that were refused, 2 nothing could be measured.

    Every refusal is a line on standard error.
    """
    parser = argparse.ArgumentParser(prog="python -m workers.rewards.benchmark", description=__doc__)
    parser.add_argument("model", type=Path, metavar="MODEL_DIR")
    parser.add_argument("files", type=Path, metavar="FILE", nargs="+")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the results here, as JSON")
    parser.add_argument(
        "--trained-on", type=Path, metavar="SNAPSHOT_DIR", help="count the prompts that are near its own"
    )
    parser.add_argument(
        "--progress",
        type=Path,
        metavar="LOG",
        help="append progress here, as JSON lines; end as trainings do",
    )
    options = parser.parse_args(arguments)
    said = _said(options.progress)
    try:
        benchmarks = read_benchmarks(options.files)
        results = []
        if is_judge(options.model):
            judge, config = load_judge(options.model)
            measured = functools.partial(measure_judge, judge)
        else:
            model, template, config = load_model(options.model)
            measured = functools.partial(measure_model, model, template)
        for benchmark in benchmarks:
            for refusal in benchmark.refused[:REFUSALS_TOLD]:
                print(f"refused: {refusal}", file=sys.stderr)
            results.append(measured(benchmark, trained_on=options.trained_on, progress=said))
    except Stopped:
        return STOPPED_EXIT
    except (ArtifactError, BadInput, Refused) as error:
        print(f"refused: {error}", file=sys.stderr)
        return 2
    print("\n\n".join(map(table, results)))
    if options.json is not None:
        found = {"model_digest": config["digest"], "benchmarks": results}
        write_text(options.json, json.dumps(found, indent=1, allow_nan=False))
    return 1 if any(benchmark.refused for benchmark in benchmarks) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
