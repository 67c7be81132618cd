"""The public data of ../shared/data as rows of a snapshot, for benchmarks and tests.

Each loader returns Rows, which `write_snapshot(folder, *rows)` takes. `group` is what must be held out as a whole
(debate, question, document, bucket of texts), so that no text stands on both sides of a split. A loader raises
FileNotFoundError, naming the file, where the data is absent. Some responses of hh_rlhf, pandalm and autoj are empty
texts; they stay.
"""

from __future__ import annotations

import csv
import functools
import gzip
import hashlib
import io
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from workers.rewards.data.snapshot import read_snapshot

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


class Rows(NamedTuple):
    """The three tables of a snapshot; rows as workers.rewards.data.snapshot.write_snapshot takes them."""

    responses: list[dict[str, Any]]
    judgements: list[dict[str, Any]]
    levels: list[dict[str, Any]]

    @property
    def groups(self) -> list[str]:
        """Names of the groups, ascending."""
        return sorted({row["group"] for row in self.responses})


def load_ukp_strict(path: Path | None = None, *, topics: bool = False) -> Rows:
    """UKPConvArg1 strict: 11,650 pairs of 1,038 texts, one cleaned verdict each, no ties, no annotators.

    A response is a text within a topic; a topic is "<debate>_<stance>", and the group is the debate (16), so both
    stances are held out together. No prompt: the arguments are read by themselves; with `topics` the prompt is the
    debate and the stance ("ban plastic water bottles: yes emergencies only"), which people saw as they judged.
    """
    ids: dict[tuple[str, str], str] = {}
    responses: list[dict[str, Any]] = []
    judgements: list[dict[str, Any]] = []
    for row in _json_lines(path or DATA / "ukp_convarg1" / "strict.jsonl.gz"):
        sides = []
        for text in (row["response_a"], row["response_b"]):
            key = (row["topic"], text)
            if key not in ids:
                ids[key] = f"r{len(ids)}"
                responses.append(
                    {
                        "response_id": ids[key],
                        "prompt_id": row["topic"],
                        "group": _debate(row["topic"]),
                        "text": text,
                        **({"messages": _topic(row["topic"])} if topics else {}),
                    }
                )
            sides.append(ids[key])
        judgements.append({"response_a": sides[0], "response_b": sides[1], "verdict": row["label"]})
    return Rows(responses, judgements, [])


def _topic(name: str) -> list[dict[str, str]]:
    """A topic's name, "debate_stance" with hyphens for spaces, as a user's message."""
    return [{"role": "user", "content": name.replace("_", ": ").replace("-", " ")}]


def load_ukp_votes(path: Path | None = None) -> Rows:
    """UKPConvArg1: 84,445 crowd votes (a, b, tie) on 16,927 pairs by 3,815 people, each vote a judgement.

    `response_a` is the paper's A1, which people saw first: `left` is always "a". Group = debate, as above. The
    fifteen pairs of equal texts (both stances of a debate quote the same post) stay.
    """
    folder = path or DATA / "ukp_convarg1"
    responses = [
        {
            "response_id": row["response_id"],
            "prompt_id": row["topic"],
            "group": _debate(row["topic"]),
            "text": row["text"],
        }
        for row in _json_lines(folder / "responses.jsonl.gz")
    ]
    judgements = [
        {
            "response_a": row["response_a_id"],
            "response_b": row["response_b_id"],
            "verdict": vote["choice"],
            "annotator": vote["annotator"],
            "left": "a",
        }
        for row in _json_lines(folder / "pairs.jsonl.gz")
        for vote in row["votes"]
    ]
    return Rows(responses, judgements, [])


def load_pl_humor(
    path: Path | None = None,
    *,
    held_out: float = 0.3,
    pairs: int | None = None,
    fold: int = 0,
    seed: int = 0,
) -> Rows:
    """Which of two short texts is funnier: up to 113,638 votes on 28,118 pairs of 4,030 texts, one to five a pair.

    The pairs join all texts into one web, so no row split is clean. Texts are hashed into 40 buckets, the groups; the
    first round(40 * held_out) form the held-out side ("held-00", ...), the others the training side ("train-.."); the
    next `fold` holds out the buckets after those. Only pairs with both texts on one side are kept: 0.3 keeps about
    49 % of the pairs for training and 9 % for measuring.
    `pairs` draws that many of the kept pairs, each with all its votes. The file says who won, not who judged nor
    where a text stood: annotator "crowd", no ties, and the winner's side drawn by `seed`, so that a side tells nothing.
    """
    folder = path or DATA / "pl_humor"
    texts: dict[int, str] = {}
    with open(folder / "item_scores.txt", encoding="utf-8") as lines:
        for line in lines:
            item, _, text = line.rstrip("\n").split("\t")
            texts[int(item)] = text
    edge = round(40 * held_out)
    side = {}
    for number, text in texts.items():
        bucket = _bucket(text, 40)
        outside = (bucket - fold * edge) % 40 < edge
        side[number] = f"held-{bucket:02d}" if outside else f"train-{bucket:02d}"
    votes: dict[tuple[int, int], list[int]] = {}
    with open(folder / "pairs.csv", encoding="utf-8") as lines:
        for line in lines:
            winner, loser = map(int, line.split(","))
            if side[winner][:5] == side[loser][:5]:
                votes.setdefault((min(winner, loser), max(winner, loser)), []).append(winner)
    draw = random.Random(seed)
    chosen = sorted(votes) if pairs is None else sorted(draw.sample(sorted(votes), min(pairs, len(votes))))
    judgements: list[dict[str, Any]] = []
    for first, second in chosen:
        a, b = (first, second) if draw.random() < 0.5 else (second, first)
        judgements.extend(
            {
                "response_a": f"t{a}",
                "response_b": f"t{b}",
                "verdict": "a" if winner == a else "b",
                "annotator": "crowd",
            }
            for winner in votes[first, second]
        )
    used = sorted({number for pair in chosen for number in pair})
    responses = [
        {"response_id": f"t{number}", "prompt_id": side[number], "group": side[number], "text": texts[number]}
        for number in used
    ]
    return Rows(responses, judgements, [])


def load_qa_feedback(path: Path | None = None, *, passages: bool = True) -> Rows:
    """QA feedback: 500 questions, four answers each, all six pairs judged once; 3,000 judgements, 384 of them ties.

    The prompt is one user message, passages first and the question last, because a prompt that must be cut keeps its
    end; `passages` False is the question alone. Group = question.
    """
    responses: list[dict[str, Any]] = []
    judgements: list[dict[str, Any]] = []
    for number, row in enumerate(_json(path or DATA / "qa_feedback" / "dev_feedback.json")):
        name = f"q{number:03d}"
        content = row["question"]
        if passages:
            read = "\n\n".join("\n".join(passage) for passage in row["passages"])
            content = f"{read}\n\nQuestion: {content}"
        messages = [{"role": "user", "content": content}]
        responses.extend(
            {
                "response_id": f"{name}-{answer}",
                "prompt_id": name,
                "group": name,
                "messages": messages,
                "text": row[f"prediction {answer}"],
            }
            for answer in range(1, 5)
        )
        judgements.extend(
            {
                "response_a": f"{name}-{first}",
                "response_b": f"{name}-{second}",
                "verdict": ("tie", "a", "b")[preference],
            }
            for (first, second), preference in zip(
                itertools.combinations(range(1, 5), 2), row["preference"], strict=True
            )
        )
    return Rows(responses, judgements, [])


def load_hh_rlhf(path: Path | None = None) -> Rows:
    """hh-rlhf harmless test: 2,312 transcript pairs, chosen and rejected; offensive text.

    The turns that both transcripts share are the prompt, the rest is the response (in five pairs more than one turn,
    kept as text). Which side is the chosen one alternates. Group = the opening turn (2,178), which several
    conversations share.
    """
    responses: list[dict[str, Any]] = []
    judgements: list[dict[str, Any]] = []
    for number, row in enumerate(_json_lines(path or DATA / "hh_rlhf" / "harmless_test.jsonl.gz")):
        turns = [_turns(row[side]) for side in ("chosen", "rejected")]
        shared = 0
        # the last turn of either always belongs to the response
        while shared < min(map(len, turns)) - 1 and turns[0][shared] == turns[1][shared]:
            shared += 1
        messages = [{"role": role, "content": text} for role, text in turns[0][:shared]]
        opening = hashlib.sha256(turns[0][0][1].encode()).hexdigest()[:16]
        for side, rest in zip(("chosen", "rejected"), (turns[0][shared:], turns[1][shared:]), strict=True):
            text = "\n\n".join([rest[0][1], *(f"{role.capitalize()}: {turn}" for role, turn in rest[1:])])
            responses.append(
                {
                    "response_id": f"h{number}-{side}",
                    "prompt_id": f"h{number}",
                    "group": opening,
                    "messages": messages,
                    "text": text,
                }
            )
        order = ("chosen", "rejected") if number % 2 == 0 else ("rejected", "chosen")
        judgements.append(
            {
                "response_a": f"h{number}-{order[0]}",
                "response_b": f"h{number}-{order[1]}",
                "verdict": "a" if number % 2 == 0 else "b",
            }
        )
    return Rows(responses, judgements, [])


def load_mlqe(
    language_pair: str,
    path: Path | None = None,
    *,
    cuts: tuple[float, float] | None = None,
    pairs_per_item: int = 2,
    tie_below: float = 5.0,
    strengths: bool = False,
    seed: int = 0,
) -> Rows:
    """Machine translations rated 0-100 by three to six people ("ro-en" or "en-de"): 9,000 items with levels and pairs.

    The published train, dev and test files share their documents (all of them in ro-en), so they are pooled and the
    documents hashed into 60 buckets, the groups. The prompt is the source sentence, the response its translation.

    levels: one per rater; a rating below `cuts[0]` is bad, from `cuts[1]` on good. Cuts None are the terciles of all
    ratings of the language pair (about 58 and 90 in ro-en, 80 and 97 in en-de, where nearly everything is rated high):
    derived levels with equal shares, not words that raters chose. The file does not say who rated, only in which
    place: annotators are "place 1", ...

    judgements: nobody compared, so each item meets `pairs_per_item` random others of its bucket, and the mean rating
    decides; means less than `tie_below` points apart are a tie. With `strengths` the terciles of the gaps that decide
    are the strengths 1 to 3. One judgement a pair, annotator "mean rating". It comes from the ratings that made the
    levels: finer than a level, but no second witness.
    """
    folder = path or DATA / "mlqe_pe"
    items: list[tuple[str, str, str, list[float], float]] = []  # bucket, source, translation, ratings, mean
    for part in ("train", "dev", "test"):
        rows, documents = _mlqe_part(folder / f"{language_pair}-{part}.tar.gz")
        for row, document in zip(rows, documents, strict=True):
            ratings = [float(rating) for rating in json.loads(row["scores"])]
            bucket = f"documents-{_bucket(document, 60):02d}"
            items.append((bucket, row["original"], row["translation"], ratings, float(np.mean(ratings))))
    if cuts is None:
        low, high = np.quantile([rating for item in items for rating in item[3]], [1 / 3, 2 / 3])
        cuts = (float(low), float(high))
    responses: list[dict[str, Any]] = []
    levels: list[dict[str, Any]] = []
    members: dict[str, list[int]] = {}
    for number, (bucket, source, translation, ratings, _) in enumerate(items):
        members.setdefault(bucket, []).append(number)
        responses.append(
            {
                "response_id": f"m{number}",
                "prompt_id": f"m{number}",
                "group": bucket,
                "messages": [{"role": "user", "content": source}],
                "text": translation,
            }
        )
        levels.extend(
            {
                "response_id": f"m{number}",
                "level": "bad" if rating < cuts[0] else "good" if rating >= cuts[1] else "normal",
                "annotator": f"place {place}",
            }
            for place, rating in enumerate(ratings, 1)
        )
    draw = random.Random(seed)
    gaps: dict[tuple[int, int], float] = {}
    for number, item in enumerate(items):
        others = [other for other in members[item[0]] if other != number]
        for other in draw.sample(others, min(pairs_per_item, len(others))):
            if (other, number) not in gaps:
                gaps[number, other] = item[4] - items[other][4]
    wide = np.quantile([abs(gap) for gap in gaps.values() if abs(gap) >= tie_below], [1 / 3, 2 / 3])
    judgements: list[dict[str, Any]] = []
    for (number, other), gap in gaps.items():
        tied = abs(gap) < tie_below
        row = {
            "response_a": f"m{number}",
            "response_b": f"m{other}",
            "verdict": "tie" if tied else "a" if gap > 0 else "b",
            "annotator": "mean rating",
        }
        judgements.append(
            row if tied or not strengths else {**row, "strength": 1 + int(np.sum(abs(gap) >= wide))}
        )
    return Rows(responses, judgements, levels)


def load_pandalm(path: Path | None = None) -> Rows:
    """PandaLM test set: 999 pairs, each judged by three people (0 tie, 1, 2); group = instruction with input (170).

    Six responses are JSON `true` instead of text; their pairs are left out (993 pairs, 2,979 judgements).
    """
    responses: list[dict[str, Any]] = []
    judgements: list[dict[str, Any]] = []
    for row in _json(path or DATA / "pandalm" / "testset-v1.json"):
        if not (isinstance(row["response1"], str) and isinstance(row["response2"], str)):
            continue
        prompt = "\n\n".join(part for part in (row["instruction"], row["input"]) if part)
        name = hashlib.sha256(prompt.encode()).hexdigest()[:16]
        _two_responses(
            responses, f"p{row['idx']}", name, prompt, (str(row["response1"]), str(row["response2"]))
        )
        judgements.extend(
            {
                "response_a": f"p{row['idx']}-1",
                "response_b": f"p{row['idx']}-2",
                "verdict": ("tie", "a", "b")[row[f"annotator{person}"]],
                "annotator": f"annotator{person}",
            }
            for person in (1, 2, 3)
        )
    return Rows(responses, judgements, [])


def load_autoj(path: Path | None = None) -> Rows:
    """Auto-J's pairwise test set: 1,392 pairs of 58 scenarios, three-way labels; group = prompt (1,182)."""
    responses: list[dict[str, Any]] = []
    judgements: list[dict[str, Any]] = []
    for number, row in enumerate(_json_lines(path or DATA / "autoj" / "autoj_pairwise.json")):
        name = hashlib.sha256(row["prompt"].encode()).hexdigest()[:16]
        _two_responses(responses, f"j{number}", name, row["prompt"], (row["response 1"], row["response 2"]))
        judgements.append(
            {
                "response_a": f"j{number}-1",
                "response_b": f"j{number}-2",
                "verdict": ("a", "b", "tie")[int(row["label"])],
            }
        )
    return Rows(responses, judgements, [])


# Run in a process of its own, in an empty data folder: what every installation's demonstration begins with.
_DEMONSTRATION = """
import django
django.setup()
from django.core.management import call_command
from webapp.corpus.models import Project
from webapp.snapshots.services import snapshot_take
from webapp.training.demo import SLUG, demo_seed
call_command("migrate", verbosity=0)
demo_seed(train=False)
print(snapshot_take(project=Project.objects.get(slug=SLUG)).path)
"""


def load_demonstration() -> Rows:
    """The demonstration as `make run` makes it: simulated verdicts and levels; group = the prompt's.

    Simulated with a fixed seed; ids differ from one making to the next, so the first is kept in the temporary folder.
    """
    folder = Path(tempfile.gettempdir()) / "caliper-demonstration"
    kept = folder / "snapshot"
    if not kept.is_dir():
        folder.mkdir(exist_ok=True)
        told = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
        told |= {"CALIPER_DATA_DIR": str(folder), "DJANGO_SETTINGS_MODULE": "webapp.settings"}
        root = Path(__file__).resolve().parents[1]
        said = subprocess.run(
            [sys.executable, "-c", _DEMONSTRATION],
            cwd=root,
            env=told,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        shutil.copytree(said.stdout.split()[-1], kept)
    snapshot = read_snapshot(kept)
    return Rows(snapshot.responses, snapshot.judgements, snapshot.levels)


# --- Changes of the training side alone, for studies ---


def flip_verdicts(rows: Rows, held_out: frozenset[str], share: float, *, seed: int) -> Rows:
    """Each training verdict a or b is turned round with probability `share`: label noise."""
    inside = _trained(rows, held_out)
    draw = random.Random(f"flip:{seed}")
    turned = {"a": "b", "b": "a"}
    judgements = []
    for row in rows.judgements:
        if row["response_a"] in inside and draw.random() < share:
            row = {**row, "verdict": turned.get(row["verdict"], row["verdict"])}
        judgements.append(row)
    return rows._replace(judgements=judgements)


def add_spammers(rows: Rows, held_out: frozenset[str], share: float, *, seed: int) -> Rows:
    """Made-up people beside the real ones, so that `share` of the training votes are theirs; 50 votes a person.

    They don't read: half of them choose a or b by a coin, half always take what stands on the left (a).
    """
    inside = _trained(rows, held_out)
    pairs = sorted(
        {(row["response_a"], row["response_b"]) for row in rows.judgements if row["response_a"] in inside}
    )
    real = sum(row["response_a"] in inside for row in rows.judgements)
    draw = random.Random(f"spammers:{seed}")
    added: list[dict[str, Any]] = []
    for person in range(round(real * share / (1 - share) / 50)):
        for a, b in draw.sample(pairs, min(50, len(pairs))):
            verdict = "a" if person % 2 else draw.choice("ab")
            added.append(
                {
                    "response_a": a,
                    "response_b": b,
                    "verdict": verdict,
                    "annotator": f"spammer{person}",
                    "left": "a",
                }
            )
    return rows._replace(judgements=[*rows.judgements, *added])


def vote_inside(rows: Rows, held_out: frozenset[str], share: float, *, seed: int) -> Rows:
    """UKPConvArg1 strict with all votes of the training debates, on all their pairs, in place of the cleaned verdicts.

    What a project has: everybody's judgement, ties too. Held-out debates keep their strict verdicts and ids, so that
    the two ways to train are measured on the same pairs. `share`: of the votes.
    """
    votes, known = _votes_and_strict_ids()
    group = {row["response_id"]: row["group"] for row in votes.responses}
    draw = random.Random(f"votes:{seed}")
    inside = []
    for row in votes.judgements:
        if group[row["response_a"]] in held_out or draw.random() >= share:
            continue
        a, b = (known.get(row[side], row[side]) for side in ("response_a", "response_b"))
        if a != b:  # fifteen pairs are one text twice
            inside.append({**row, "response_a": a, "response_b": b})
    used = {row[side] for row in inside for side in ("response_a", "response_b")}
    more = [row for row in votes.responses if row["response_id"] in used]
    trained = _trained(rows, held_out)
    return rows._replace(
        responses=[*rows.responses, *more],
        judgements=[
            *({**row, "annotator": "strict"} for row in rows.judgements if row["response_a"] not in trained),
            *inside,
        ],
    )


@functools.cache
def _votes_and_strict_ids() -> tuple[Rows, dict[str, str]]:
    """All votes of UKPConvArg1, and the id in load_ukp_strict of each response there that it has too."""
    folder = DATA / "ukp_convarg1"
    sides = {
        row["pair_id"]: (row["response_a_id"], row["response_b_id"])
        for row in _json_lines(folder / "pairs.jsonl.gz")
    }
    known: dict[str, str] = {}
    for row, judgement in zip(
        _json_lines(folder / "strict.jsonl.gz"), load_ukp_strict().judgements, strict=True
    ):
        known |= zip(sides[row["pair_id"]], (judgement["response_a"], judgement["response_b"]), strict=True)
    return load_ukp_votes(), known


def keep_levels(rows: Rows, held_out: frozenset[str], share: float, *, seed: int) -> Rows:
    """Levels of only `share` of the training responses, all labels of each."""
    inside = sorted(_trained(rows, held_out) & {row["response_id"] for row in rows.levels})
    lost = set(inside) - set(random.Random(f"levels:{seed}").sample(inside, round(share * len(inside))))
    return rows._replace(levels=[row for row in rows.levels if row["response_id"] not in lost])


def call_both_bad(rows: Rows, held_out: frozenset[str], share: float, *, seed: int) -> Rows:
    """The verdict "both bad" for `share` of the training pairs of two responses whose labels are mostly bad."""
    inside = _trained(rows, held_out)
    votes: dict[str, list[bool]] = {}
    for row in rows.levels:
        votes.setdefault(row["response_id"], []).append(row["level"] == "bad")
    bad = {name for name, said in votes.items() if name in inside and 2 * sum(said) > len(said)}
    draw = random.Random(f"both_bad:{seed}")
    judgements = []
    for row in rows.judgements:
        if {row["response_a"], row["response_b"]} <= bad and draw.random() < share:
            row = {**row, "verdict": "both_bad"}
        judgements.append(row)
    return rows._replace(judgements=judgements)


def keep_pairs(rows: Rows, held_out: frozenset[str], share: float, *, seed: int) -> Rows:
    """Judgements among only `share` of the training responses: the others have levels at most."""
    inside = sorted(_trained(rows, held_out))
    lost = set(inside) - set(random.Random(f"pairs:{seed}").sample(inside, round(share * len(inside))))
    kept = [row for row in rows.judgements if not lost & {row["response_a"], row["response_b"]}]
    return rows._replace(judgements=kept)


def _trained(rows: Rows, held_out: frozenset[str]) -> set[str]:
    return {row["response_id"] for row in rows.responses if row["group"] not in held_out}


def _two_responses(
    responses: list[dict[str, Any]], pair: str, prompt_id: str, prompt: str, texts: tuple[str, str]
) -> None:
    responses.extend(
        {
            "response_id": f"{pair}-{side}",
            "prompt_id": prompt_id,
            "group": prompt_id,
            "messages": [{"role": "user", "content": prompt}],
            "text": text,
        }
        for side, text in enumerate(texts, 1)
    )


def _mlqe_part(path: Path) -> tuple[list[dict[str, str]], list[str]]:
    """Rows and document of each row. Quotes are characters of the text here, never the format's: QUOTE_NONE."""
    with tarfile.open(path) as archive:
        names = archive.getnames()
        table = archive.extractfile(next(name for name in names if name.endswith(".tsv")))
        documents = archive.extractfile(next(name for name in names if name.endswith(".doc_ids")))
        assert table is not None
        assert documents is not None
        lines = io.TextIOWrapper(table, encoding="utf-8", newline="")
        rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
        return rows, documents.read().decode("utf-8").splitlines()[1:]


def _turns(transcript: str) -> list[tuple[str, str]]:
    """A transcript "\\n\\nHuman: ...\\n\\nAssistant: ..." as (role, text)."""
    turns: list[tuple[str, str]] = []
    for part in transcript.split("\n\n"):
        for marker, role in (("Human:", "user"), ("Assistant:", "assistant")):
            if part.startswith(marker):
                turns.append((role, part.removeprefix(marker).strip()))
                break
        else:  # a paragraph of the turn before
            if turns:
                turns[-1] = (turns[-1][0], f"{turns[-1][1]}\n\n{part}")
    return turns


def _debate(topic: str) -> str:
    return topic.split("_", 1)[0]


def _bucket(text: str, buckets: int) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) % buckets


def _json(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return rows


def _json_lines(path: Path) -> list[dict[str, Any]]:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
