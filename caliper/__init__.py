"""A small client of Caliper: HTTP calls with types, and the `caliper` command. Needs httpx alone."""

from caliper.client import Client, Project
from caliper.errors import CaliperError, FieldError
from caliper.reward import RewardServer, caliper_reward

__all__ = ["CaliperError", "Client", "FieldError", "Project", "RewardServer", "caliper_reward"]
