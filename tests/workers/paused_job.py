"""python paused_job.py TASK PK MODULE NAME: do a job as a worker does, and halt for ever where MODULE.NAME is called.

Prints "there" when it halts, so that a test can look at a job that works, and kill it, in a phase of its choice.
"""

import importlib
import sys
import time
from typing import Any

from workers import tasks


def main(task: str, pk: str, module: str, name: str) -> None:
    holder: Any = importlib.import_module(module)
    *outer, last = name.split(".")
    for part in outer:
        holder = getattr(holder, part)

    def halt(*args: Any, **options: Any) -> None:
        print("there", flush=True)
        while True:
            time.sleep(0.1)
            if name == "_walk":  # told of its progress as in real work, so that a cancel is seen
                args[-1]("writing", 1, 2)

    setattr(holder, last, halt)
    getattr(tasks, task)(int(pk))
    print("ended", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
