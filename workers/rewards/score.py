"""Score responses with a saved model: `python -m workers.rewards.score MODEL_DIR RESPONSES [--out FILE]`.

RESPONSES is Parquet or JSONL (UTF-8; either may be gzipped) with `text`, and optionally `response_id`, `messages` and
`tools`. Scores go to --out (.parquet or .jsonl), else as JSON lines to standard output. A row that can't be read as
it stands is refused by its line, the others are scored. A generative model (grm, judge) votes on each as often as its
run did, on those of one prompt together.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from .artifacts.save import ArtifactError, load_model
from .config import Refused
from .data.responses import UNKNOWN_SHARE, BadInput, read_responses
from .evaluation.attacks import ATTACKS, Own
from .generative.saved import is_judge, load_judge
from .models.predict import score_encoded, score_responses, write_predictions
from .models.reward_model import RewardModel
from .text.sections import Template

CLAIM = next(attack for attack in ATTACKS if attack.name == "score_appended")


def score_and_claim(
    model: RewardModel, template: Template, responses: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The command's predictions, with how each text was read, and `claimed`: its score with "Score: 9" at its end.

    `tokens` and `unknown` are of prompt and response together; `cut`: the response itself was shortened.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoded = template.encode(responses)
    rows = score_encoded(model, template, responses, encoded, device)
    claims = [{**row, "text": CLAIM.change(row["text"], Own(), 0)} for row in responses]
    claimed = score_responses(model, template, claims, device)
    return [
        {**row, "tokens": len(read), "unknown": read.unknown, "cut": read.cut, "claimed": other["score"]}
        for row, read, other in zip(rows, encoded, claimed, strict=True)
    ]


def _scored(folder: Path) -> Callable[[Sequence[dict[str, Any]]], list[dict[str, Any]]]:
    """What scores responses with a reward model, and notes characters that it doesn't know. Raises ArtifactError."""
    model, template, _ = load_model(folder)

    def scored(responses: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        encoded = template.encode(responses)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        unknown = sum(row.unknown for row in encoded) / max(1, sum(len(row) for row in encoded))
        if unknown >= UNKNOWN_SHARE:
            print(
                f"note: {unknown:.1%} of the tokens are characters that the model does not know",
                file=sys.stderr,
            )
        return score_encoded(model, template, responses, encoded, device)

    return scored


def main(arguments: Sequence[str]) -> int:
    """The command; exit status 0 scored, 1 scored but for the rows that were refused, 2 nothing could be scored.

    Every refusal is a line on standard error.
    """
    parser = argparse.ArgumentParser(prog="python -m workers.rewards.score", description=__doc__)
    parser.add_argument("model", type=Path, metavar="MODEL_DIR")
    parser.add_argument("responses", type=Path, metavar="RESPONSES")
    parser.add_argument("--out", type=Path, help="a .parquet or .jsonl file; standard output if not given")
    options = parser.parse_args(arguments)
    try:
        responses, refused = read_responses(options.responses)
        scored = (
            load_judge(options.model)[0].predictions if is_judge(options.model) else _scored(options.model)
        )
    except (ArtifactError, BadInput, Refused) as error:
        print(f"refused: {error}", file=sys.stderr)
        return 2
    for refusal in refused:
        print(f"refused: {refusal}", file=sys.stderr)
    if not responses:
        print(f"refused: {options.responses}: no row of it can be scored", file=sys.stderr)
        return 2
    try:
        rows = scored(responses)
    except Refused as error:
        print(f"refused: {error}", file=sys.stderr)
        return 2
    if options.out is not None and options.out.suffix == ".parquet":
        write_predictions(options.out, rows)
    else:
        lines = "".join(json.dumps({k: v for k, v in row.items() if k != "split"}) + "\n" for row in rows)
        if options.out is not None:
            options.out.write_text(lines, encoding="utf-8")
        else:
            sys.stdout.write(lines)
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
