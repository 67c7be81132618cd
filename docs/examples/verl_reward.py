"""A reward function for verl: custom_reward_function.path=verl_reward.py custom_reward_function.name=compute_score

Each row of the data set has the conversation in extra_info["prompt"]: verl hands the answer over without it.
CALIPER_SERVER is the reward server's address, CALIPER_SERVER_TOKEN what it asks for.
"""

import os
from typing import Any

from caliper import caliper_reward

reward = caliper_reward(os.environ["CALIPER_SERVER"], os.environ.get("CALIPER_SERVER_TOKEN"))


def compute_score(
    data_source: str, solution_str: str, ground_truth: Any, extra_info: dict[str, Any], **_: Any
) -> float:
    return reward([extra_info["prompt"]], [solution_str])[0]
