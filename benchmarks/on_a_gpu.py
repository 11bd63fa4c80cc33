"""Everything that wants a GPU, in nine minutes on one card: is it right, how fast, how good.

    python benchmarks/on_a_gpu.py --minutes 9 --data DATA --out OUT

DATA holds the folders `cifar10` and `mnist` and the authors' distilled set; without that file its
row stays open. OUT gets a JSON file for each question, the distilled images, and the log of it all:
nine small files. `gpu_*.json` go into `benchmarks/results`, whence `docs/results.py` reads them.

Stages (`--stages` names some) come in the order of their worth. Each is a process of its own, so
that one that fails, or takes the card's memory along, stops no other; the next one has its modules
imported by then. Each has its share of the time, writes its figures the moment it has them, and
stops between two steps where the time would not reach; one that does not is ended from outside.

The systems of the paper's table 2 want three minutes of their own:

    python benchmarks/on_a_gpu.py --minutes 3 --stages systems_cifar10_10 --data DATA --out OUT

On a card that is only borrowed: the packages need not be installed. With Python 3.12 and jax,
equinox, lineax, optax, optimistix, orbax-checkpoint, matplotlib, pillow, scikit-learn, pyarrow,
pandas, rich, joblib, jinja2 and jaxtyping there, `bash benchmarks/gpu/pack.sh FOLDER DATA` makes a
folder of the other wheels and of the data, to be carried along with the source tree; and there

    bash benchmarks/gpu/borrowed.sh FOLDER --minutes 9 --out OUT

needs neither a network nor git. `--rehearse` goes through every line at toy sizes on a CPU, with
the library taking the ways that it takes on an accelerator: do that first.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import IO, Any

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Stage:
    """A question to the card.

    Attributes:
        run: module and function of `gpu`, and what it is called with beside the task.
        share: of the time, in seconds where there are nine minutes.
        most: seconds at most, of which a longer time is no use.
    """

    run: tuple[Any, ...]
    share: float
    most: float


STAGES = {
    "toolkit": Stage(("right", "toolkit"), 50, 90),
    "meta_gradient": Stage(("right", "meta_gradient"), 80, 130),
    "speed_cifar10_1": Stage(("speed", "speed", "cifar10", 1), 110, 160),
    "accuracy_cifar10_1": Stage(("accuracy", "accuracy", 1, 160.0), 170, 225),
    "speed_cifar10_50": Stage(("speed", "speed", "cifar10", 50), 60, 110),
    "peers": Stage(("others", "others"), 40, 80),
    "speed_cifar10_10": Stage(("speed", "speed", "cifar10", 10), 30, 90),
    "speed_mnist_1": Stage(("speed", "speed", "mnist", 1), 25, 90),
    "systems_cifar10_10": Stage(("systems", "systems", 10), 20, 900),
    "accuracy_cifar10_10": Stage(("accuracy", "accuracy", 10, 600.0), 20, 900),
}
LEAST = 12.0
"""Seconds with which a stage is begun."""

GRACE = 25.0
"""Seconds that a stage may overrun, in a compilation say, before it is ended from outside."""

SLOW_FOLDING = re.compile(r"constant folding", re.IGNORECASE)
WARNING = re.compile(r"\w*Warning: .*")


def main() -> int:
    arguments = parse()
    if arguments.stage:
        return work(arguments)
    ends = time.monotonic() + 60 * arguments.minutes
    arguments.out.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as scratch,
        (arguments.out / "log.txt").open("w", encoding="utf-8") as log,
    ):
        conductor = Conductor(arguments, Path(scratch), log, ends)
        rows = conductor.conduct()
    sys.path.insert(0, str(HERE))
    from _report import table
    from gpu._show import show

    show(arguments.out)
    print()
    table(["stage", "seconds", "how it ended"], rows)
    for line in conductor.alarms:
        print("XLA folded constants for long:", line)
    for line in dict.fromkeys(conductor.warnings):
        print("warned:", line)
    bad = [how for _, _, how in rows if how.startswith("failed")] or conductor.warnings
    return 1 if bad else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="All measurements that want a GPU, in minutes.")
    parser.add_argument("--minutes", type=float, help="in all: 9, or 60 to rehearse")
    parser.add_argument("--data", type=Path, default=os.environ.get("BILEVEL_DATA", "data"))
    parser.add_argument("--out", type=Path, default=HERE.parent / "runs" / "gpu")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--rehearse", action="store_true", help="at toy sizes, on a CPU")
    parser.add_argument("--stage", choices=("prepare", *STAGES), help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.minutes = arguments.minutes or (60.0 if arguments.rehearse else 9.0)
    return arguments


class Conductor:
    """Has the stages run, one after the other, while the next one imports its modules."""

    def __init__(self, arguments: argparse.Namespace, scratch: Path, log: IO[str], ends: float):
        self.arguments, self.scratch, self.log, self.ends = arguments, scratch, log, ends
        self.alarms: list[str] = []
        self.warnings: list[str] = []
        self._listeners: list[Thread] = []

    def conduct(self) -> list[list[Any]]:
        preparing = self.start("prepare")
        self.release(preparing, self.left)
        rows, names = [], list(self.arguments.stages)
        waiting = self.start(names[0])
        for i, name in enumerate(names):
            process = waiting
            if i + 1 < len(names):
                waiting = self.start(names[i + 1])
            began = time.monotonic()
            how = self.see_through(process, self.budget(names[i:]))
            rows.append([name, round(time.monotonic() - began, 1), how])
            self.say(f"{name}: {how}")
        preparing.kill()
        preparing.wait()
        for listener in self._listeners:
            listener.join()
        for unfinished in self.arguments.out.glob("*.tmp"):
            unfinished.unlink()
        return rows

    @property
    def left(self) -> float:
        return self.ends - time.monotonic()

    def budget(self, names: list[str]) -> float:
        """Seconds of the first of these stages: what others did not use is shared by all."""
        share = STAGES[names[0]].share / sum(STAGES[name].share for name in names)
        most = STAGES[names[0]].most * self.arguments.minutes / 9
        return min(self.left if len(names) == 1 else max(share * self.left, LEAST), most, self.left)

    def start(self, name: str) -> subprocess.Popen:
        """A stage that imports what it needs, and then waits to be released."""
        given = self.arguments
        command = [sys.executable, "-u", str(HERE / "on_a_gpu.py"), "--stage", name,
                   "--scratch", str(self.scratch), "--data", str(given.data), "--out",
                   str(given.out), *(["--rehearse"] if given.rehearse else [])]  # fmt: skip
        process = subprocess.Popen(
            command, env=environment(name, given, self.scratch), stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
        listener = Thread(target=self.listen, args=(process,), daemon=True)
        listener.start()
        self._listeners.append(listener)
        return process

    def listen(self, process: subprocess.Popen) -> None:
        for line in process.stdout or ():
            self.log.write(line)
            if SLOW_FOLDING.search(line):
                self.alarms.append(line.strip()[:300])
            if found := WARNING.search(line):
                self.warnings.append(found[0][:300])
            if line.startswith("  "):
                print(line, end="", flush=True)

    def release(self, process: subprocess.Popen, seconds: float) -> None:
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # it is dead already, and its exit code says why
            process.stdin.write(f"{seconds}\n")
            process.stdin.flush()

    def see_through(self, process: subprocess.Popen, seconds: float) -> str:
        """How the stage ended."""
        if seconds < LEAST:
            process.kill()
            process.wait()
            return "not begun: no time was left"
        self.release(process, seconds)
        try:
            code = process.wait(min(seconds + GRACE, self.left))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return "ended from outside: its time was up"
        said = self.scratch / f"{process.pid}.said"
        return said.read_text() if said.exists() else f"failed: exit code {code}"

    def say(self, line: str) -> None:
        print(line, flush=True)
        self.log.write(line + "\n")
        self.log.flush()


def environment(name: str, given: argparse.Namespace, scratch: Path) -> dict[str, str]:
    path = [str(HERE.parent), str(HERE.parent / "applications" / "distillation")]
    before = os.environ.get("PYTHONPATH")
    changed = {
        "PYTHONPATH": os.pathsep.join([*path, before] if before else path),
        "BILEVEL_DATA": str(given.data),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "MPLBACKEND": "agg",
        # What XLA tried out for one stage it need not try again for the next.
        "JAX_COMPILATION_CACHE_DIR": str(scratch / "compiled"),
    }
    if name == "prepare" or given.rehearse:
        changed["JAX_PLATFORMS"] = "cpu"
    if given.rehearse:
        changed |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "PYTHONWARNINGS": "default"}
    return {**os.environ, **changed}


def work(arguments: argparse.Namespace) -> int:
    """A stage, in its own process."""
    sys.path.insert(0, str(HERE))
    said = arguments.scratch / f"{os.getpid()}.said"
    try:
        call = import_all(arguments)
        seconds = float(sys.stdin.readline() or 0)
        how = attempt(arguments, call, seconds)
    except Exception as error:
        traceback.print_exc()
        how = f"failed: {type(error).__name__}: {str(error)[:200]}"
    said.write_text(how)
    return 1 if how.startswith("failed") else 0


def import_all(arguments: argparse.Namespace) -> Callable:
    from importlib import import_module

    if arguments.stage == "prepare":
        return import_module("gpu.prepare").prepare
    module, function, *rest = STAGES[arguments.stage].run
    found = getattr(import_module(f"gpu.{module}"), function)
    return lambda task: found(task, *rest)


def attempt(arguments: argparse.Namespace, call: Callable, seconds: float) -> str:
    import jax
    from gpu._task import TINY, OutOfTime, Sizes, Task, merge

    backend = jax.default_backend()
    if arguments.rehearse:
        jax.default_backend = lambda: "gpu"  # so that the library takes an accelerator's ways
    elif arguments.stage != "prepare" and backend != "gpu":
        return f"failed: jax finds no GPU, only a {backend}; --rehearse is for that"
    sizes = TINY if arguments.rehearse else Sizes()
    ends = time.monotonic() + seconds
    task = Task(arguments.stage, arguments.out, arguments.scratch, arguments.data, sizes, ends)
    began, how = time.monotonic(), "done"
    try:
        call(task)
    except OutOfTime as cut:
        how = f"cut before: {cut}"
    except Exception as error:
        traceback.print_exc()
        how = f"failed: {type(error).__name__}: {str(error)[:200]}"
    if arguments.stage != "prepare":
        ended = {"seconds": time.monotonic() - began, "how": how}
        merge(arguments.out / "gpu_stages.json", {arguments.stage: ended})
    return how


if __name__ == "__main__":
    sys.exit(main())
