"""What a judge over an endpoint would ask and cost, before it asks anything.

By the lengths of a sample of the project's prompts, four characters a token. A run's metrics have what was counted.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.db.models import Count, Sum
from django.db.models.functions import Length

from webapp.corpus.endpoints import Endpoint
from webapp.corpus.models import Project, Prompt
from webapp.words import counted

PROMPTS_READ = 200
CHARACTERS_A_TOKEN = 4
# The next four as workers.rewards.generative has them.
SAMPLES = 8
MAX_NEW_TOKENS = 1024
MOST_TOGETHER = 4  # responses of a prompt that one text judges
FORM_CHARACTERS = 1200  # of instructions and headings around the texts
# Of an answer: principles, and a critique of each response.
ANSWER_TOKENS, ANSWER_TOKENS_EACH = 150, 100
# The robustness suite asks at most half as often as the votes.
WITH_ROBUSTNESS = 1.5


@dataclass(frozen=True)
class Estimate:
    """About how much a run would ask, and about what that costs; None where the endpoint has no prices."""

    calls: int
    tokens_in: int
    tokens_out: int
    cost: float | None
    currency: str

    def __str__(self) -> str:
        words = (
            f"{counted(self.calls, 'call')}, {self.tokens_in:,} tokens asked and {self.tokens_out:,} answered"
        )
        if self.cost is None:
            return words
        return f"{words}, {'under 0.01' if self.cost < 0.01 else format(self.cost, ',.2f')} {self.currency}"


def judge_estimate(project: Project, endpoint: Endpoint, config: Mapping[str, Any]) -> Estimate:
    """Of a judge over all of the project's responses of now; `config` may say samples and max_new_tokens."""
    samples = config.get("samples") or SAMPLES
    longest = config.get("max_new_tokens") or MAX_NEW_TOKENS
    prompts = Prompt.objects.filter(project=project)
    # by digest: as good as drawn by lot, and an index has it
    read = list(
        prompts.annotate(answers=Count("responses"), characters=Sum(Length("responses__text")))
        .order_by("digest")
        .values_list("messages", "answers", "characters")[:PROMPTS_READ]
    )
    calls = characters = tokens_out = 0
    for messages, answers, text in read:
        asked = -(-answers // MOST_TOGETHER)
        around = FORM_CHARACTERS + len(project.guidelines) + len(json.dumps(messages, ensure_ascii=False))
        calls += asked
        characters += asked * around + (text or 0)
        tokens_out += sum(
            min(longest, ANSWER_TOKENS + ANSWER_TOKENS_EACH * min(MOST_TOGETHER, answers - first))
            for first in range(0, answers, MOST_TOGETHER)
        )
    times = samples * WITH_ROBUSTNESS * prompts.count() / max(1, len(read))
    tokens_in, tokens_out = (
        _two_digits(count * times) for count in (characters / CHARACTERS_A_TOKEN, tokens_out)
    )
    cost = endpoint.cost(tokens_in, tokens_out)
    return Estimate(_two_digits(calls * times), tokens_in, tokens_out, cost, endpoint.currency)


def _two_digits(count: float) -> int:
    """An estimate has no more."""
    return int(float(f"{count:.2g}"))
