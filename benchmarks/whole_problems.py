"""Whole bilevel problems: time until the outer loss is within 0.1 % of the best known.

    python benchmarks/whole_problems.py --suite PATH      (a clone of benchopt/benchmark_bilevel)
    python benchmarks/whole_problems.py --problems network --seconds 20

`minimize` with its defaults against jaxopt and optimistix with SciPy's L-BFGS-B outside,
warm-started and with tolerances of 1e-6, and, where a clone is named, against the suite's own
solvers at the rates that it publishes. In float64, one after the other, twice: the first time
counts compilation, the second does not. Every psi on the way is judged later, by the outer loss
where the inner problem is solved from the theta that came with it. Results grow in
results/whole_problems.json: what is there is not run again (`--fresh`).
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ["JAX_ENABLE_X64"] = "1"

from _report import RESULTS, table, write
from _whole_contestants import contestants
from _whole_problems import PROBLEMS, available

NAME = "whole_problems"
POINTS = 24


def measured(problem, run, seconds: float) -> dict[str, Any]:
    """The values on the way, of a first and of a second run."""
    start = time.perf_counter()
    try:
        first = run(problem, seconds)
    except Exception as error:  # of another library: said in its row
        reason = str(error).strip().splitlines()[0]
        return {"seconds": seconds, "failed": reason, "compiling": 0.0, "curve": []}
    whole = time.perf_counter() - start
    # What the first run took longer to its first point than the second one is compilation.
    second = run(problem, seconds)
    compiling = max(whole - (second[-1][0] if len(second) == len(first) else first[-1][0]), 0.0)
    compiling = max(compiling, first[0][0] - second[0][0])
    stride = max(1, len(second) // POINTS)
    kept = sorted({*range(0, len(second), stride), len(second) - 1})
    curve, measures = [], {}
    for at in kept:
        value, measures = problem.judge(*second[at][1:])
        curve.append((second[at][0], value))
    return {"seconds": seconds, "compiling": compiling, "curve": curve, "measures": measures}


def reached(curve, level: float) -> float | None:
    return next((seconds for seconds, value in curve if value <= level), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--suite", type=Path, help="a clone of benchopt/benchmark_bilevel")
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--seconds", type=float, default=60, help="at most so long a run")
    parser.add_argument("--fresh", action="store_true", help="measure again what is there")
    options = parser.parse_args()
    path = RESULTS / f"{NAME}.json"
    found = json.loads(path.read_text())["problems"] if path.exists() else {}
    for key in options.problems:
        if not available(key):
            print(f"{key} is left out: BILEVEL_DATA names no folder that holds mnist")
            continue
        problem = PROBLEMS[key]()
        rows = {} if options.fresh else found.get(key, {})
        for name, run in contestants(problem, options.suite):
            if name not in rows:
                rows[name] = measured(problem, run, options.seconds)
                found[key] = rows
                write(NAME, {"problems": found})
        best = min(value for row in rows.values() for _, value in row["curve"] if value == value)
        level = best + 1e-3 * abs(best)
        print(f"\n{problem.name}: best known outer loss {best:.6g}")
        table(
            ("", "seconds to 0.1 %", "and compiling", "lowest outer loss", ""),
            [
                (
                    name,
                    reached(row["curve"], level) or "never",
                    row["compiling"],
                    min((value for _, value in row["curve"]), default=float("nan")),
                    row.get("failed")
                    or ", ".join(f"{what} {much:.3f}" for what, much in row["measures"].items()),
                )
                for name, row in rows.items()
            ],
        )


if __name__ == "__main__":
    main()
