"""A small run that is killed before a file event, or that says what it holds of the machine.

    python benchmarks/_faulty_run.py FOLDER [kill NUMBER | count | flat]

Started by `faults.py`. `kill`: SIGKILL right before the event of that number (a file is opened for
writing, renamed, made or removed) in the folder; `count` prints how many there are; `flat` prints
memory, threads and open files at the least and the most, after a tenth of 2,000 meta-iterations.
"""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

EVENTS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate"}


def main() -> int:
    out = Path(sys.argv[1]).absolute()
    what, number = (sys.argv[2:] + ["", ""])[:2]
    seen = [0]

    def hook(event: str, arguments: tuple) -> None:
        if event not in EVENTS or not _is_write(event, arguments):
            return
        if any(str(out) in os.fsdecode(one) for one in arguments if isinstance(one, str | bytes)):
            seen[0] += 1
            if what == "kill" and seen[0] == int(number):
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    from bilevel_distillation import EvaluationConfig, Interrupted, Reporter, RunConfig, run

    config = RunConfig(
        method="frepo", iterations=12, batch_size=16, width=4, depth=2, pool_size=2, pool_steps=1,
        curve_points=3, checkpoint_seconds=0.0, out=out,
        evaluation=EvaluationConfig(repeats=1, steps=3),
    )  # fmt: skip
    if what == "long":
        config = replace(config, iterations=100_000, checkpoint_seconds=1.0)
    watch = _Watch() if what == "flat" else Reporter()
    if isinstance(watch, _Watch):
        config = replace(config, method="rcig", iterations=2_000, checkpoint_seconds=5.0)
    try:
        run(config, watch)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    except Interrupted:
        return 130
    if what == "count":
        print(seen[0])
    if isinstance(watch, _Watch):
        print(*(figure for one in watch.seen[len(watch.seen) // 10 :] for figure in one))
    return 0


def _is_write(event: str, arguments: tuple) -> bool:
    if event != "open":
        return True
    flags = arguments[2]
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


class _Watch:
    """A reporter that notes resident megabytes, threads and open files."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, int, int]] = []

    def say(self, message: str) -> None:
        pass

    warn = say

    def begin(self, description: str, total: int, done: int) -> None:
        self.is_distilling = description == "distilling"

    def advance(self, count: int, **figures: float) -> None:
        if not self.is_distilling:
            return
        status = dict(
            line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines()
        )
        memory = int(status["VmRSS"].split()[0]) / 1024
        self.seen.append((memory, int(status["Threads"]), len(os.listdir("/proc/self/fd"))))

    def end(self) -> None:
        pass


if __name__ == "__main__":
    sys.exit(main())
