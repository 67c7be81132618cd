"""Any classifier of single responses ranks them."""

import numpy as np
import pytest

from benchmarks.classifiers import METHODS
from workers.rewards.evaluation.robustness import spearman


@pytest.mark.parametrize("name", METHODS)
def test_rewards_rank_responses_that_were_compared_with_noise(name: str) -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 6))
    truth = features @ np.array([2.0, -1.0, 0.5, 0.0, 0.0, 0.0])
    pairs = rng.integers(
        0, 180, size=(3000, 2)
    )  # twenty responses stand in no pair, and are rated all the same
    wins = rng.random(3000) < 1 / (1 + np.exp(truth[pairs[:, 1]] - truth[pairs[:, 0]]))
    chosen, rejected = np.where(wins[:, None], pairs, pairs[:, ::-1]).T
    rewards = METHODS[name](features, chosen, rejected, 0)
    assert rewards.shape == (200,)
    correlation = spearman(rewards, truth)
    assert correlation is not None
    assert correlation > 0.85
    assert np.corrcoef(rewards[180:], truth[180:])[0, 1] > 0.7
