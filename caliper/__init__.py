"""A small client of Caliper: HTTP calls with types, and the `caliper` command. Needs httpx alone."""
