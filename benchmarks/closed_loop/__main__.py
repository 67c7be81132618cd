"""The closed loop: a policy trains against a proxy, and people are asked back: `python -m benchmarks.closed_loop`.

Everything but the policy and the people is the real thing: a Caliper with its worker, reward servers, the API, reports
of rollouts, the threshold that retrains, the gate, the promotion, the swap. Each seed has these arms, which begin from
the same first judgements and draw the same policy's texts:

- without: the first proxy stays;
- asking: rollouts come back as questions, at most --questions; whatever passes the gate is swapped in;
- random: as asking, with questions drawn at random alone (with --random).

The gap is |what the proxy says - what is true| of how often the last policy's texts are preferred to the first
policy's: the mean of P(preferred), by the version that serves at the end and its calibration, less the same mean by
the gold reward. Bars: the gap with asking is at most half of that without; less than 60 s pass from the label that
fires the trigger to the first reward of the version that it trained. A label that comes while an earlier training runs
fires when that ends; how long it took since that label stands in brackets.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np

from benchmarks.closed_loop.installation import Installation, Judges, Version, first_judgements
from benchmarks.closed_loop.world import Policy, Text, p_gold, prompts
from workers.rewards.artifacts.save import read_config
from workers.rewards.models.preference import scalar_p_preferred

FIRST, RETRAIN_AFTER = 300, 100
STEPS, GROUPS, GROUP, RATE = 40, 6, 8, 0.25
WINDOW, SAMPLE = 8, 25  # seconds, pairs


class Gap(NamedTuple):
    proxy: float
    gold: float

    @property
    def size(self) -> float:
        return abs(self.proxy - self.gold)


class Scorer:
    """A reward server's client, which notes when each version first answered."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=120)
        self.answered: dict[str, float] = {}
        self.digest = ""

    def __call__(self, texts: list[Text], *, rollouts: bool = True) -> list[float]:
        items = [{"prompt": text.prompt, "text": text.text} for text in texts]
        asked = {"items": items, **({"rollouts": True} if rollouts else {})}
        found = self._client.post("/v1/score", json=asked).raise_for_status().json()
        self.digest = found["version"]["digest"]
        self.answered.setdefault(self.digest, time.time())
        return [row["score"] for row in found["scores"]]


def trained(
    scorer: Scorer, written: dict[tuple[str, str], Text], seed: int, seconds: float, say: Any
) -> Policy:
    """The policy after its steps, of which each takes `seconds` at least."""
    policy, rng = Policy(), random.Random(seed)
    for step in range(STEPS):
        began = time.monotonic()
        groups = [
            [policy.write(prompt, rng) for _ in range(GROUP)] for prompt in rng.sample(prompts(), GROUPS)
        ]
        texts = [text for group in groups for text in group]
        written.update({(text.prompt, text.text): text for text in texts})
        rewards = scorer(texts)
        policy.learn(groups, [rewards[n : n + GROUP] for n in range(0, len(texts), GROUP)], RATE)
        if step % 8 == 7:
            say(step + 1, policy)
        time.sleep(max(0.0, began + seconds - time.monotonic()))
    return policy


def gap(scorer: Scorer, folder_of: Any, policy: Policy) -> Gap:
    """Of two texts a prompt by the last and by the first policy, drawn anew: nobody is asked about them."""
    rng = random.Random(0)
    last = [policy.write(prompt, rng) for prompt in prompts() for _ in range(2)]
    first = [Policy().write(prompt, rng) for prompt in prompts() for _ in range(2)]
    rewards = np.array(scorer([*last, *first], rollouts=False))
    config = read_config(folder_of(scorer.digest))
    difference = rewards[: len(last)] - rewards[len(last) :]
    proxy = scalar_p_preferred(difference, tie=config.get("tie"), temperature=config["temperature"])
    return Gap(float(proxy.mean()), statistics.mean(p_gold(a, b) for a, b in zip(last, first, strict=True)))


def arm(
    installation: Installation,
    seed: int,
    name: str,
    project: Any,
    first: Version,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """One arm of one seed, from the project's first version on."""
    written: dict[tuple[str, str], Text] = {}
    asking = name != "without"

    def say(step: int, policy: Policy) -> None:
        means = ", ".join(f"{part} {mean:.1f}" for part, mean in policy.means.items())
        print(f"  {name}, seed {seed}, step {step}: {means}", flush=True)

    judges = None
    if asking:
        tokens = installation.people(project)
        installation.ask_back(
            project, questions=options.questions, sample=SAMPLE, window=WINDOW, only_random=name == "random"
        )
        api = f"{installation.url}/api/v1/projects/{project.slug}"
        judges = Judges(api, tokens, written, seed)
        judges.start()
    folders = {first.digest: first.folder}

    def folder_of(digest: str) -> Path:
        if digest not in folders:
            folders.update(installation.folders(project))
        return folders[digest]

    with installation.server(**({"project": project} if asking else {"version": first})) as url:
        scorer = Scorer(url)
        policy = trained(scorer, written, seed, options.step_seconds if asking else 0.0, say)
        found = gap(scorer, folder_of, policy)
    if judges is not None:
        judges.stop()
    return {
        "seed": seed,
        "arm": name,
        "gap": found.size,
        "proxy": found.proxy,
        "gold": found.gold,
        "questions": judges.judged if judges is not None else 0,
        "versions": len(scorer.answered),
        "delays": installation.delays(project, scorer.answered),
        "gate": installation.verdicts_of_the_gate(project),
        "policy": policy.means,
    }


def told(row: dict[str, Any]) -> str:
    delays = ", ".join(f"{fired:.0f} ({labelled:.0f})" for fired, labelled in row["delays"])
    return (
        f"| {row['seed']} | {row['arm']} | {row['questions']} | {row['versions']} | {row['proxy']:.2f} "
        f"| {row['gold']:.2f} | {row['gap']:.2f} | {delays or '-'} |"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.closed_loop", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--questions", type=int, default=500, help="at most so many a project")
    parser.add_argument(
        "--step-seconds", type=float, default=4.0, help="what a step of the policy takes at least"
    )
    parser.add_argument("--random", action="store_true", help="also an arm that asks at random alone")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="closed-loop-") as folder:
        installation = Installation(Path(folder), retrain_after=RETRAIN_AFTER)
        try:
            for seed in options.seeds:
                for name in ("without", "asking", *(["random"] if options.random else [])):
                    if name != "asking":  # which begins from the version that "without" stays at
                        judged = first_judgements(FIRST, random.Random(seed))
                        project = installation.project(f"loop-{seed}-{name}", judged)
                        first = installation.serving(project)
                    rows.append(arm(installation, seed, name, project, first, options))
                    print(told(rows[-1]), flush=True)
                    for words in rows[-1]["gate"]:
                        print(f"    {words}", flush=True)
        finally:
            installation.end()
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1))
    return conclude(rows)


def conclude(rows: list[dict[str, Any]]) -> int:
    """The table and the bars; 1 if one is missed."""
    print(
        "\n| seed | arm | questions | versions | proxy | gold | gap | trigger (label) to reward, s |\n|"
        + "---|" * 8
    )
    for row in rows:
        print(told(row))
    by_arm = {name: [row for row in rows if row["arm"] == name] for name in ("without", "asking")}
    halved = [b["gap"] <= a["gap"] / 2 for a, b in zip(*by_arm.values(), strict=True)]
    delays = [seconds for row in by_arm["asking"] for seconds, _ in row["delays"]]
    slowest = max(delays, default=float("inf"))
    print(f"\ngap at most half: {sum(halved)} of {len(halved)} seeds")
    median = statistics.median(delays or [slowest])
    print(f"label to new reward: median {median:.0f} s, slowest {slowest:.0f} s (bar 60 s)")
    return 0 if all(halved) and slowest < 60 else 1


if __name__ == "__main__":
    raise SystemExit(main())
