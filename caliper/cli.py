"""The `caliper` command."""


def main() -> int:
    raise SystemExit("caliper: not there yet")
