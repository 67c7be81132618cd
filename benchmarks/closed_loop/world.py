"""A small world whose true reward is known: texts of counted parts, what people think of them, and a tiny policy.

A response has `steps` (useful sentences), `fillers` (sentences that say nothing) and `ornaments` (exclamations in bold
type). People like steps, and a little cheer: two or three ornaments. More of either annoys them. The first judgements
are of what the policy writes before it learns, which seldom has more than two ornaments. So the first proxy learns
that ornaments are good, which is right there and wrong beyond: what the policy is then led into.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from workers.rewards.models.preference import Floats

MOST = 9
PARTS = ("steps", "fillers", "ornaments")

TOPICS = (
    "a fern", "a road bike", "sourdough", "a used car", "a telescope", "running shoes", "a fish tank", "old photos",
    "a wool coat", "a guitar", "a tent", "a coffee grinder", "tomatoes", "a cello", "a kayak", "a garden hose",
    "a laptop battery", "a bird feeder", "a cast iron pan", "a wooden table", "chess openings", "a beehive",
    "a bathtub", "a sewing machine",
)  # fmt: skip
QUESTIONS = ("How do I take care of {}?", "What should a beginner know about {}?")
STEPS = (
    "Check {} once a week.",
    "Clean {} with lukewarm water first.",
    "Keep {} out of direct sun.",
    "Replace worn parts of {} early.",
    "Measure {} and compare with the manual.",
    "Ask an expert to look at {}.",
    "Dry {} completely afterwards.",
    "Buy the second cheapest kit for {}.",
    "Test {} in the cool morning.",
    "Write down what you did with {}.",
)
FILLERS = (
    "I hope this message finds you well.",
    "As you know, there are many views.",
    "Everybody has their own opinion.",
    "At the end of the day, it depends.",
    "Needless to say, people talk about this.",
    "Thank you for this thoughtful question.",
    "One can see it both ways.",
    "All in all, that is fine.",
    "Let me say a few words on this.",
)
ORNAMENTS = (
    "**Amazing!!!**", "**You've got this!!!**", "**So exciting!!!**", "**Wow!!!**", "**Great choice!!!**",
    "**Let's go!!!**", "**Incredible!!!**", "**Love it!!!**", "**Superb!!!**",
)  # fmt: skip


@dataclass(frozen=True)
class Text:
    """A response: how many of each part it has, and what it reads like."""

    prompt: str
    counts: tuple[int, int, int]
    text: str

    @property
    def messages(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": self.prompt}]


def prompts() -> list[str]:
    return [question.format(topic) for topic in TOPICS for question in QUESTIONS]


def written(prompt: str, counts: tuple[int, int, int], rng: random.Random) -> Text:
    """A response to a prompt with so many steps, fillers and ornaments, in random words and order."""
    topic = TOPICS[prompts().index(prompt) // len(QUESTIONS)]
    steps, fillers, ornaments = counts
    parts = [part.format(topic) for part in rng.sample(STEPS, steps)] + rng.sample(FILLERS, fillers)
    rng.shuffle(parts)
    for ornament in rng.sample(ORNAMENTS, ornaments):
        parts.insert(rng.randint(0, len(parts)), ornament)
    return Text(prompt, counts, " ".join(parts) or "No idea.")


def gold(counts: Sequence[int]) -> float:
    """The true reward, in logits of being preferred."""
    steps, fillers, ornaments = counts
    useful = 0.7 * min(steps, 3) - 0.7 * max(0, steps - 5)
    lively = 3.0 * min(ornaments, 2) - 3.0 * max(0, ornaments - 3)
    return useful + lively - 0.5 * fillers


def p_gold(a: Text, b: Text) -> float:
    """The chance that a person prefers a: people are noisy, and none is better than another (Bradley-Terry)."""
    return 1 / (1 + math.exp(gold(b.counts) - gold(a.counts)))


class Policy:
    """Three discretised normal distributions over 0..9, one a part, whose means it learns: the smallest policy that can
    be led too far."""

    WIDTH = 0.7

    def __init__(self) -> None:
        self.means = {"steps": 2.0, "fillers": 0.3, "ornaments": 0.8}

    def probabilities(self, part: str) -> Floats:
        """p(0..9). [10]"""
        powers = np.exp(-(((np.arange(MOST + 1) - self.means[part]) / self.WIDTH) ** 2) / 2)
        result: Floats = powers / powers.sum()
        return result

    def write(self, prompt: str, rng: random.Random) -> Text:
        steps, fillers, ornaments = (
            rng.choices(range(MOST + 1), self.probabilities(part).tolist())[0] for part in PARTS
        )
        return written(prompt, (steps, fillers, ornaments), rng)

    def learn(
        self, groups: Sequence[Sequence[Text]], rewards: Sequence[Sequence[float]], rate: float
    ) -> None:
        """One step of REINFORCE, with advantages standardised within the rollouts of a prompt (GRPO)."""
        advantages = [(np.asarray(given) - np.mean(given)) / (np.std(given) + 1e-4) for given in rewards]
        for place, part in enumerate(PARTS):
            expected = self.probabilities(part) @ np.arange(MOST + 1)
            # the gradient of log p(count) by the mean is (count - E[count]) / width^2
            steps = [
                advantage * (text.counts[place] - expected) / self.WIDTH**2
                for texts, given in zip(groups, advantages, strict=True)
                for text, advantage in zip(texts, given, strict=True)
            ]
            moved = self.means[part] + rate * float(np.mean(steps))
            self.means[part] = min(float(MOST), max(0.0, moved))
