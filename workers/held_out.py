"""Which responses a project's trainings hold out, for exports that keep them apart."""

from pathlib import Path


def held_out_responses(snapshot: Path, split_salt: str) -> frozenset[str]:
    """The ids of the held-out responses of a snapshot's folder: the default share, as each training divides."""
    # With torch, which this process needs for nothing else.
    from workers.rewards.config import RunConfig
    from workers.rewards.data.snapshot import read_snapshot
    from workers.rewards.data.split import split_groups

    found = read_snapshot(snapshot)
    split = split_groups(found, RunConfig(split_salt=split_salt))
    return frozenset(row["response_id"] for row in found.responses if split.is_held_out(row))
