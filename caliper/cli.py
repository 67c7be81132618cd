"""The `caliper` command. It ends with 0 if all went well, 1 if something was refused or failed, 2 if it was called
wrongly, and 130 after Ctrl-C. Results go to stdout, all else to stderr; `--json` makes the results JSON.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from caliper.commands import account, data, label, models
from caliper.commands.common import Stop, shown
from caliper.credentials import CredentialsError
from caliper.errors import CaliperError


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
        sys.stdout.flush()
    except Stop as stop:
        _complain(stop)
        return stop.status
    except (CaliperError, CredentialsError) as error:
        _complain(error)
        return 1
    except KeyboardInterrupt:
        _complain("Stopped.")
        return 130
    except BrokenPipeError:
        # Whoever read our output has seen enough. Python would complain once more while it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def _complain(what: object) -> None:
    print(f"caliper: {shown(str(what))}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--url", help="the Caliper to talk to; default: CALIPER_URL, or the last login's")
    common.add_argument("--json", action="store_true", help="print results as JSON")
    parser = argparse.ArgumentParser(prog="caliper", description="Caliper from a shell.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Any, words: str, **more: Any) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, parents=[common], help=words, description=words, **more)
        sub.set_defaults(run=run)
        return sub

    account.add(command)
    data.add(command)
    models.add(command)
    label.add(command)
    return parser
