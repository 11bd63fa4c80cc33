"""What `import bilevel` costs beside jax's own import, and beside the libraries that it stands on.

    python benchmarks/importing.py

Fresh processes in turns, their processor time, sources compiled as pip leaves them. Other work on
the machine makes all of them slower, so the least of the turns says most.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile

from _report import table

WHAT = {
    "jax": "import jax",
    "jax, equinox, optax": "import jax, equinox, optax",
    "bilevel": "import bilevel",
}


def processor_time(program: str, cache: str) -> float:
    """Seconds that a fresh interpreter takes for it."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-c", program], check=True,
        env=environment | {"PYTHONPYCACHEPREFIX": cache},
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--turns", type=int, default=15)
    turns = parser.parse_args().turns
    took: dict[str, list[float]] = {name: [] for name in WHAT}
    with tempfile.TemporaryDirectory() as cache:
        for turn in range(turns + 1):
            for name, program in WHAT.items():
                seconds = processor_time(program, cache)
                if turn:  # the first one compiles
                    took[name].append(seconds)
    least = {name: min(seconds) for name, seconds in took.items()}
    middle = {name: statistics.median(seconds) for name, seconds in took.items()}
    rows = []
    for name in WHAT:
        pairs = (
            least[name],
            least[name] - least["jax"],
            middle[name],
            middle[name] - middle["jax"],
        )
        rows.append([name, *(f"{seconds:.2f}" for seconds in pairs)])
    table(["import", "least, s", "more than jax", "median, s", "more than jax"], rows)


if __name__ == "__main__":
    main()
