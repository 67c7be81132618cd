"""The JSON Lines that are imported: prompts with four responses each and all six pairs of them, with votes."""

import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "autoj" / "autoj_pairwise.json"
RESPONSES, PAIRS = 4, 6
VOTES = (5, 5, 4, 3, 2, 1)
"""Votes for each of a prompt's pairs. With an overlap of 5 two of them are complete and four are open."""
OVERLAP_WITH_VOTES = 5
PEOPLE = 40


def texts() -> tuple[list[str], list[str]]:
    """Prompts and answers to draw from: Auto-J's where they are there, else words of the same lengths."""
    if DATA.exists():
        rows = [json.loads(line) for line in DATA.read_text().splitlines()]
        answers = [row[f"response {number}"] for row in rows for number in (1, 2)]
        return [row["prompt"] for row in rows], sorted({text for text in answers if text.strip()})
    rng = random.Random(0)
    words = ["the", "model", "answers", "a", "question", "about", "rivers", "and", "weather", "in", "Oslo"]

    def text(median: float, spread: float) -> str:
        return " ".join(rng.choices(words, k=max(3, int(rng.lognormvariate(0, spread) * median))))

    return [text(30, 0.8) for _ in range(1200)], [text(120, 0.9) for _ in range(2700)]


def rows(pairs: int, *, votes: bool, seed: int = 0) -> Iterator[dict[str, Any]]:
    """A project of so many pairs, prompt after prompt; the last prompt may have fewer pairs."""
    rng = random.Random(seed)
    prompts, answers = texts()
    for number in range(-(-pairs // PAIRS)):
        prompt = f"p{number}"
        # Numbered, so that no two prompts are the same.
        content = f"{rng.choice(prompts)}\n\n(question {number})"
        yield {"type": "prompt", "id": prompt, "messages": [{"role": "user", "content": content}]}
        names = [f"{prompt}-{letter}" for letter in "abcd"[:RESPONSES]]
        for index, (name, text) in enumerate(zip(names, rng.sample(answers, RESPONSES), strict=True)):
            yield {"type": "response", "id": name, "prompt": prompt, "text": text, "author": f"model-{index}"}
        left = pairs - number * PAIRS
        for (a, b), wanted in list(zip(itertools.combinations(names, 2), VOTES, strict=True))[:left]:
            yield {"type": "pair", "id": f"{a}:{b}", "a": a, "b": b}
            for person in rng.sample(range(PEOPLE), wanted if votes else 0):
                verdict = rng.choices(("a", "b", "tie", "both_bad"), (45, 45, 6, 4))[0]
                yield {"type": "vote", "pair": f"{a}:{b}", "annotator": f"rater-{person}", "verdict": verdict}


def write(file: Path, pairs: int, *, votes: bool) -> int:
    """Write the rows; how many."""
    with file.open("w") as out:
        count = 0
        for count, row in enumerate(rows(pairs, votes=votes), start=1):  # noqa: B007
            out.write(json.dumps(row) + "\n")
    return count


def rivals(pairs: int) -> list[dict[str, str]]:
    """The same pairs as Label Studio's tasks: prompt, a and b."""
    found: dict[str, str] = {}
    tasks = []
    for row in rows(pairs, votes=False):
        if row["type"] == "prompt":
            found = {"prompt": row["messages"][0]["content"]}
        elif row["type"] == "response":
            found[row["id"]] = row["text"]
        else:
            tasks.append({"prompt": found["prompt"], "a": found[row["a"]], "b": found[row["b"]]})
    return tasks
