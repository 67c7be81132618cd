"""The reward server: a version in memory, batches, doors, and what it tells Caliper."""
