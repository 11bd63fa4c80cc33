"""One hypergradient of ours against the peers': time at equal error, compile time and memory.

    python benchmarks/peers.py --problems network data_cleaning

Every contestant is handed the same theta*, found once in float64, and solves for the adjoint with
conjugate gradients in float32. A float64 run says how many steps (and which residual) bring the
hypergradient within `--error` of the exact one: that is the tolerance which all are given. Turns
interleave, so that load on the machine hits all alike. A peer that is not installed is left out.
"""

import argparse
import gc
import os
import time
import warnings
from importlib.util import find_spec
from statistics import median
from typing import Any

import jax
import numpy as np
from _peers_contestants import PEERS, contestants, installed, versions
from _peers_problems import PROBLEMS, Problem
from _peers_reference import Reference, solve_exactly
from _report import data_folder, table, write

# jaxlib 0.10.2 fuses products for YNNPACK wrongly: without this, `jax.scipy`'s CG, and so jaxopt,
# ends its first step on the data-cleaning problem with zeros or NaN.
XLA_FLAGS = "--xla_cpu_experimental_ynn_fusion_type="


def measure(problem: Problem, reference: Reference, peers, turns: int) -> list[dict[str, Any]]:
    rows, running = [], {}
    for name, make in contestants(problem, reference, peers).items():
        try:
            row, call = enter(name, make, reference)
        except Exception as error:
            print(f"  {name} failed: {type(error).__name__}: {str(error)[:200]}")
            continue
        rows.append(row)
        running[name] = call
    counts = {name: calls_a_turn(call) for name, call in running.items()}
    times = {name: [] for name in running}
    for _ in range(turns):
        for name, call in running.items():
            times[name].append(seconds_a_call(call, counts[name]))
    for row in rows:
        row["milliseconds"] = 1e3 * median(times[row["contestant"]])
    base = min(row["milliseconds"] for row in rows if row["contestant"].startswith("bilevel"))
    return [row | {"ratio": row["milliseconds"] / base} for row in rows]


def enter(name, make, reference):
    jax.clear_caches()  # so that each pays for all that it compiles
    gc.collect()
    start = time.perf_counter()
    contestant = make()
    found = contestant.call()
    first = time.perf_counter() - start
    found = np.asarray(found if isinstance(found, jax.Array) else found.detach())
    error = np.linalg.norm(found - reference.grad) / np.linalg.norm(reference.grad)
    row = {
        "contestant": name,
        "error": float(error),
        "first_call_seconds": first,
        "megabytes": contestant.megabytes,
    }
    return row, contestant.call


def calls_a_turn(call) -> int:
    call()
    return max(1, min(50, int(0.1 / seconds_a_call(call, 1))))


def seconds_a_call(call, count: int) -> float:
    """The last of the other contestant's threads may still spin: rest, and run once untimed."""
    time.sleep(0.02)
    if count > 1:
        call()
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count


def show(problem: Problem, reference: Reference, rows) -> dict[str, Any]:
    print(
        f"\n{problem.name}: {problem.size:,} parameters, psi {problem.psi.size:,}; "
        f"{reference.steps} steps, residual {reference.rtol:.1e}"
    )
    headers = ("contestant", "error", "ms", "times ours", "first call, s", "memory, MB")
    keys = ("contestant", "error", "milliseconds", "ratio", "first_call_seconds", "megabytes")
    cells = [["-" if row[key] is None else row[key] for key in keys] for row in rows]
    table(headers, cells)
    print(flush=True)
    return {
        "problem": problem.name,
        "parameters": problem.size,
        "steps": reference.steps,
        "rtol": reference.rtol,
        "rows": rows,
    }


def summary(results) -> None:
    lines = []
    for result in results:
        mine = [row for row in result["rows"] if row["contestant"].startswith("bilevel")]
        best = min(mine, key=lambda row: row["milliseconds"])
        peers = [row for row in result["rows"] if row not in mine]
        equal = [row for row in peers if row["error"] <= 2 * best["error"]] or sorted(
            peers, key=lambda row: row["error"]
        )[:1]
        if equal:
            fastest = min(equal, key=lambda row: row["milliseconds"])
            compile_time = [r["first_call_seconds"] for r in peers if r["contestant"] == "jaxopt"]
            lines.append(
                [
                    result["problem"],
                    best["contestant"],
                    best["error"],
                    fastest["contestant"],
                    fastest["error"],
                    fastest["ratio"],
                    best["first_call_seconds"] / compile_time[0] if compile_time else "-",
                ]
            )
    headers = ("problem", "ours", "error", "fastest peer", "error", "times ours", "compile/jaxopt")
    table(headers, lines)


def missing_for_mnist() -> str | None:
    if find_spec("datasets") is None:
        return "the package datasets is not installed"
    if not data_folder("mnist").is_dir():
        return "BILEVEL_DATA names no folder that holds mnist"
    return None


def main():
    parser = argparse.ArgumentParser(description="One hypergradient of ours against the peers'.")
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--repeats", type=int, default=7, help="turns of each contestant")
    parser.add_argument("--error", type=float, default=1e-3, help="of the hypergradient")
    options = parser.parse_args()
    os.environ.setdefault("XLA_FLAGS", XLA_FLAGS)  # read when the first computation starts
    warnings.filterwarnings("ignore", category=FutureWarning)
    peers, results, path = installed(options.peers), [], "nothing was measured"
    for name in options.problems:
        if name == "data_cleaning" and (missing := missing_for_mnist()):
            print(f"{name} is left out: {missing}")
            continue
        print(name, flush=True)
        problem, reference = solve_exactly(PROBLEMS[name](), options.error)
        rows = measure(problem, reference, peers, options.repeats)
        results.append(show(problem, reference, rows))
        path = write("peers", {
            "settings": vars(options), "xla_flags": os.environ["XLA_FLAGS"],
            "peers": versions(peers), "results": results,
        })  # fmt: skip
    summary(results)
    print(path)


if __name__ == "__main__":
    main()
