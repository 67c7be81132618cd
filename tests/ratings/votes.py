"""A version that votes, as its worker would publish it: for tests of pages, comparisons, backups."""

from collections.abc import Mapping, Sequence
from itertools import combinations, count
from typing import Any

from webapp.corpus.models import Project, Response
from webapp.ratings.services import predictions_store, votes_store
from webapp.training.models import ModelVersion, TrainingRun
from workers.rewards.generative.judge import vote_distribution

CURVE: list[dict[str, Any]] = [
    {
        "samples": samples,
        "votes": {
            "value": 0.6 + 0.05 * place,
            "low": 0.5 + 0.05 * place,
            "high": 0.7 + 0.05 * place,
            "n": 182,
        },
        "meta": {
            "value": 0.62 + 0.06 * place,
            "low": 0.52 + 0.06 * place,
            "high": 0.72 + 0.06 * place,
            "n": 182,
        },
    }
    for place, samples in enumerate((1, 2, 4, 8))
]
GENERATIVE = {"curve": CURVE, "order": {"pairs": 61, "decided": 0.18}, "samples": 8}

_numbers = count(100)


def trajectories_of(
    votes: Mapping[str, Sequence[int | None]], texts: Mapping[str, str]
) -> dict[str, list[Any]]:
    """Rows of the three files: votes[response][sample] of responses of one prompt, None where none could be read.

    The first sample shows the responses as they are named here, the next one from the second on, and so forth.
    `texts`: what the critique of a response says, the same in each sample.
    """
    names, k = list(votes), len(next(iter(votes.values())))
    files: dict[str, list[Any]] = {"trajectories": [], "critiques": [], "joint": []}
    joint = {pair: {False: [0, 0, 0], True: [0, 0, 0]} for pair in combinations(names, 2)}
    for sample in range(k):
        turn = sample % len(names)
        shown = names[turn:] + names[:turn]
        scores = [votes[name][sample] for name in shown]
        read = None not in scores
        files["trajectories"].append(
            {
                "stage": "score", "prompt_id": "p", "responses": shown, "sample": sample, "text": f"Text {sample}.",
                "scores": scores if read else None, "reason": "" if read else "no \\boxed{} at its end",
                "correct": None, "counted": True, "meta": None,
            }
        )  # fmt: skip
        for name, score in zip(shown, scores, strict=True):
            ratings = sorted(rating for rating in votes[name] if rating is not None)
            median = read and score == ratings[(len(ratings) - 1) // 2] if ratings else False
            earlier = [row for row in files["critiques"] if row["response_id"] == name and row["median"]]
            files["critiques"].append(
                {
                    "response_id": name, "sample": sample, "position": shown.index(name), "rating": score,
                    "principles": f"1. Truth (weight 60 %), seen {sample}\n2. Brevity (weight 40 %)" if read else "",
                    "critique": texts.get(name, "It is right.") if read else "", "median": median and not earlier,
                }
            )  # fmt: skip
        for a, b in joint if read else ():
            first, second = votes[a][sample], votes[b][sample]
            assert first is not None
            assert second is not None
            place = 0 if first > second else 1 if first == second else 2
            joint[a, b][shown.index(a) < shown.index(b)][place] += 1
    for (a, b), orders in joint.items():
        every = [sum(pair) for pair in zip(*orders.values(), strict=True)]
        row: dict[str, Any] = {"response_a": a, "response_b": b}
        for place, name in enumerate(("wins", "ties", "losses")):
            row |= {name: every[place], f"order_a_first_{name}": orders[True][place]}
        files["joint"].append(row)
    return files


def voting_version(
    project: Project,
    votes: Mapping[Response, Sequence[int | None]],
    *,
    method: str = "judge",
    texts: Mapping[Response, str] | None = None,
    metrics: Mapping[str, Any] | None = None,
    **fields: Any,
) -> ModelVersion:
    """A serving version with these votes: votes[response][sample], of responses of one prompt."""
    number = next(_numbers)
    run = TrainingRun.objects.create(
        project=project, method=method, trigger="button", config={}, config_digest=str(number), state="done"
    )
    metrics = {"training": {"levels": 1}, "generative": GENERATIVE, **(metrics or {})}
    version = ModelVersion.objects.create(
        project=project, run=run, method=method, number=number, kind="ordinal", digest=str(number), metrics=metrics,
        **{"is_serving": True, **fields},
    )  # fmt: skip
    rows = []
    for response, said in votes.items():
        p = vote_distribution([rating for rating in said if rating is not None])
        mean = sum(rating * share for rating, share in enumerate(p, start=1))
        spread = sum((rating - mean) ** 2 * share for rating, share in enumerate(p, start=1)) ** 0.5
        rows.append(
            {
                "response_id": response.external_id, "score": mean, "expected": mean, "spread": spread, "p": p,
                "split": "held_out", "truncated": False,
            }
        )  # fmt: skip
    predictions_store(version=version, rows=rows)
    named = {response.external_id: said for response, said in votes.items()}
    critiques = {response.external_id: text for response, text in (texts or {}).items()}
    votes_store(version=version, **trajectories_of(named, critiques))
    return version
