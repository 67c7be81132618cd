"""What a run of grm or judge may be told, and what is refused with the remedy."""

from typing import Any

import pytest

from workers.rewards.config import FOLDS, Refused, RunConfig

GRM = {"method": "grm", "base_model": "org/model", "tuning": "lora"}
JUDGE = {"method": "judge", "base_model": "org/model", "tuning": "frozen"}
ASKED = {**JUDGE, "base_model": "endpoint:local"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({**GRM, "base_model": "endpoint:local"}, "whose weights are not here"),
        ({**GRM, "method": "bt", "base_model": "endpoint:local"}, "set method to 'judge'"),
        ({**JUDGE, "base_model": "endpoint:"}, "CALIPER_ENDPOINTS"),
        ({**JUDGE, "tuning": "tuned"}, "set tuning to 'frozen'"),
        ({**GRM, "tuning": "frozen"}, "set tuning to tuned, lora or qlora"),
        ({**JUDGE, "cost_limit": 1.0}, "cost_limit"),
        ({**GRM, "token_limit": 1}, "token_limit"),
        ({**GRM, "crossfit": FOLDS}, "six times over; set it to 0"),
        ({**JUDGE, "crossfit": FOLDS}, "has seen no label"),
        ({**GRM, "shard": True}, "shard is True, which grm does not know; set it to false"),
        ({**GRM, "patience": 2}, "patience is 2"),
        ({**GRM, "stages": "grpo,rft"}, "stages is 'grpo,rft'; choose one of rft, grpo"),
        ({**GRM, "samples": 0}, "samples is 0; it must lie within 1..64"),
        ({**GRM, "samples": 65}, "samples"),
        ({**GRM, "sampling_temperature": 2.5}, "sampling_temperature"),
        ({**GRM, "max_new_tokens": 8}, "max_new_tokens"),
        ({**GRM, "kl": -1.0}, "kl"),
        ({**GRM, "group": 1}, "group is 1"),
        ({**GRM, "samples": 2.5}, "samples is 2.5; it must be a whole number"),
        ({**ASKED, "cost_limit": "free"}, "cost_limit is 'free'; it must be a number or null"),
    ],
)
def test_what_cannot_be_is_refused_with_the_key_and_the_remedy(given: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused) as refused:
        RunConfig.from_dict(given)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("given", [GRM, JUDGE])
def test_an_encoder_is_refused_with_a_model_that_would_do(given: dict[str, Any]) -> None:
    with pytest.raises(Refused, match="org/model is a text encoder; choose an instruct model"):
        RunConfig.from_dict(given).resolved("encoder", 384)


def test_defaults_follow_the_paper_where_nothing_is_said() -> None:
    grm = RunConfig.from_dict(GRM).resolved("causal", 1536)
    assert (grm.samples, grm.sampling_temperature, grm.stages, grm.group) == (8, 0.5, "rft,grpo", 4)
    assert (grm.epochs, grm.max_length, grm.crossfit) == (2, 8192, 0)
    assert (grm.kind, grm.generative, grm.endpoint) == ("ordinal", True, None)
    rates = [
        RunConfig.from_dict({**GRM, "tuning": tuning}).resolved("causal", width).grpo_learning_rate
        for tuning, width in (("lora", 1536), ("qlora", 4096), ("tuned", 1536), ("tuned", 100))
    ]
    assert rates == pytest.approx([1e-5, 1e-5, 1e-6, 3e-4])
    chosen = RunConfig.from_dict({**GRM, "grpo_learning_rate": 4e-7}).resolved("causal", 1536)
    assert chosen.grpo_learning_rate == 4e-7


def test_a_judge_learns_nothing_here_or_at_an_endpoint() -> None:
    asked = RunConfig.from_dict({**ASKED, "cost_limit": 2.5, "token_limit": 1_000_000})
    assert asked.endpoint == "local"
    for resolved in (asked.resolved("causal", 0), RunConfig.from_dict(JUDGE).resolved("causal", 1536)):
        assert (resolved.epochs, resolved.learning_rate, resolved.crossfit) == (0, 0.0, 0)
        assert (resolved.kind, resolved.backbone, resolved.max_length) == ("ordinal", "causal", 8192)
    assert RunConfig.from_dict(asked.to_json()) == asked
