"""A fuzz of hypergradients: right, said, or silently wrong, by solver and by inverse Hessian.

    python benchmarks/fuzz.py                        all of it, some minutes
    python benchmarks/fuzz.py --quick                a part, about a minute
    python benchmarks/fuzz.py --unit 1e-8 1e8        the inner loss in other units, against unit 1
    python benchmarks/fuzz.py --only "vector, ridge" --verbose --list 50

Each call of `hypergradient(..., throw="ignore")` is *right* (both of its results are `successful`,
and `grad` is within 1 % of a dense solution in float64), *said* (one of the results is not
`successful`), or *silently wrong*. What was said though it is right within 1 % is an alarm: a
failure, which `throw="raise"` would raise, or another word (`approximate`, ...).

Every problem meets all solvers with `CG()`, all inverse Hessians with a callable that knows theta*,
and a sample of the other pairs. An inverse with damping is right where it solves the damped system.
Calls are kept under runs/fuzz, by the sources of toolkit and fuzz: a run that was stopped goes on
where it was. Programs are compiled quickly, not well. Exits 1 if anything was silently wrong.
"""

import argparse
import json
import os
import sys
import time
from collections import Counter
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

# Before jax is imported: most of the time goes into compiling.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    + " --xla_cpu_parallel_codegen_split_count=1 --xla_cpu_multi_thread_eigen=false"
)
if version("jaxlib").startswith(("0.10.", "0.11.")):  # XLA ends at once at a flag it does not know
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"

import jax
from _fuzz_calls import Call, Caller, digest, pairs, verdict
from _fuzz_problems import Problem, problems
from _fuzz_reference import settle
from _report import table, write

KEPT = Path(__file__).parents[1] / "runs" / "fuzz"
DTYPES = ("float32", "float64")
QUICK = (
    "vector, ridge, 0",
    "vector, ridge 1e6, 2",
    "vector, logistic, little penalty, 1",
    "vector, quartic, 2",
    "vector, wells, 1",
    "vector, ridge, theta 1e4, 0",
    "vector, peak, 0",
    "box, box, 0",
    "box, lasso, 1",
)


class Kept:
    """Calls of one unit, by problem and precision, in a file that grows line by line."""

    def __init__(self, path: Path, fresh: bool):
        self.path, self.known = path, {}
        if fresh:
            path.unlink(missing_ok=True)
        for text in path.read_text().splitlines() if path.exists() else ():
            with suppress(ValueError):  # half a line, where a run was stopped
                line = json.loads(text)
                self.known[line["problem"], line["dtype"]] = line["calls"]

    def get(self, problem: str, dtype: str) -> list[Call] | None:
        return self.known.get((problem, dtype))

    def add(self, problem: str, dtype: str, calls: list[Call]):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps({"problem": problem, "dtype": dtype, "calls": calls}) + "\n")


def run(chosen: list[Problem], unit: float, kept: Kept, options) -> list[Call]:
    """All calls of all problems in one unit."""
    calls: list[Call] = []
    for form in dict.fromkeys(problem.form for problem in chosen):
        mine = [problem for problem in chosen if problem.form is form]
        for dtype in options.dtypes:
            start, programs, found = time.perf_counter(), {}, []
            for problem in mine:
                found += run_one(problem, dtype, unit, kept, programs, options)
            silent = sum(verdict(call) == "silent" for call in found)
            text = f"{len(mine)} problems, {len(found)} calls, {silent} silently wrong"
            seconds = time.perf_counter() - start
            print(f"unit {unit:g}, {form.name}, {dtype}: {text}, {seconds:.0f} s", flush=True)
            calls += found
        jax.clear_caches()
    return calls


def run_one(problem, dtype, unit, kept: Kept, programs, options) -> list[Call]:
    found = kept.get(problem.name, dtype)
    if found is None:
        with jax.enable_x64(True):
            problem = settle(problem)
        with jax.enable_x64(dtype == "float64"):
            call = Caller(problem, dtype, unit, None if options.eager else programs)
            chosen = pairs(problem.form, dtype, options.extra, quick=options.quick)
            found = [call(*pair) for pair in chosen]
        kept.add(problem.name, dtype, found)
    if options.verbose:
        counts = Counter(map(verdict, found))
        print(f"  {problem.name}: " + ", ".join(f"{n} {name}" for name, n in counts.items()))
    return [call | {"problem": problem.name, "dtype": dtype} for call in found]


def tally(calls: list[Call], by: str) -> dict[str, dict[str, int]]:
    """Counts by solver or by inverse, and of all."""
    counts: dict[str, Counter] = {}
    for call in calls:
        counts.setdefault(call[by], Counter())[verdict(call)] += 1
    counts["all"] = sum(counts.values(), Counter())
    return {name: columns(found) for name, found in counts.items()}


def columns(found: Counter) -> dict[str, int]:
    failure, other = found["alarm"], found["hedged"]
    return {
        "right": found["right"],
        "said": found["said"] + found["raised"] + failure + other,
        "alarms: failure": failure,
        "alarms: other": other,
        "silently wrong": found["silent"],
    }


def show(title: str, counts: dict[str, dict[str, int]]):
    print()
    table([title, *counts["all"]], [[name, *found.values()] for name, found in counts.items()])


def worst(calls: list[Call], count: int) -> list[dict[str, Any]]:
    silent = sorted((c for c in calls if verdict(c) == "silent"), key=lambda c: -c["error"])
    keys = ("error", "solver", "inverse", "dtype", "problem", "kind")
    return [{key: call[key] for key in keys} for call in silent[:count]]


def compare(calls: list[Call], base: list[Call], unit: float) -> dict[str, Any]:
    """What another unit changes: counts, and the calls whose verdict is another."""
    columns = ("right", "said", "silently wrong")
    rows = []
    mine, before = tally(calls, "solver"), tally(base, "solver")
    for name in before:
        changes = [mine[name][column] - before[name][column] for column in columns]
        if any(changes) or name == "all":
            rows.append([name, *(f"{change:+d}" if change else "" for change in changes)])
    print()
    table([f"unit {unit:g} against 1", *columns], rows)
    pairs = zip(calls, base, strict=True)
    moved = [f"{coarse(b)} -> {coarse(c)}" for c, b in pairs if coarse(c) != coarse(b)]
    print(", ".join(f"{text}: {n}" for text, n in Counter(moved).most_common()) or "no call moved")
    return {"changes": rows, "moved": dict(Counter(moved))}


def coarse(call: Call) -> str:
    found = verdict(call)
    return found if found in ("right", "silent") else "said"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--unit", type=float, nargs="+", default=[1.0])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--extra", type=int, default=8, help="sampled pairs a form")
    parser.add_argument("--only", default="", help="problems whose names hold this")
    parser.add_argument("--quick", action="store_true", help="nine problems of two forms")
    parser.add_argument("--eager", action="store_true", help="do not compile calls as a whole")
    parser.add_argument("--fresh", action="store_true", help="take over no calls of earlier runs")
    parser.add_argument("--verbose", action="store_true", help="a line a problem")
    parser.add_argument("--list", type=int, default=15, help="how many of the worst to list")
    options = parser.parse_args()
    sys.exit(any(judge(options)))


def judge(options) -> list[int]:
    """Run and print; how many calls were silently wrong, for each unit."""
    jax.config.update("jax_compilation_cache_dir", str(KEPT / "programs"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    chosen = [problem for problem in problems(options.seed) if options.only in problem.name]
    if options.quick:
        chosen = [problem for problem in chosen if problem.name.startswith(QUICK)]
    units = list(dict.fromkeys([1.0, *options.unit]))
    found, payload = {}, {}
    for unit in units:
        start = time.perf_counter()
        settings = f"{options.seed}_{options.extra}_{options.quick}_{options.eager}_{unit:g}"
        kept = Kept(KEPT / f"{digest()}_{settings}.jsonl", options.fresh)
        found[unit] = run(chosen, unit, kept, options)
        payload[f"{unit:g}"] = report(found[unit], unit, options)
        print(f"unit {unit:g}: {len(chosen)} problems, {len(found[unit])} calls, "
              f"{time.perf_counter() - start:.0f} s")  # fmt: skip
        if unit != 1:
            payload[f"{unit:g}"] |= compare(found[unit], found[1.0], unit)
    if not (options.quick or options.only or options.eager):
        name = "fuzz" if units == [1.0] else "fuzz_units"
        print(write(name, {"settings": vars(options), "units": payload}))
    return [sum(verdict(call) == "silent" for call in calls) for calls in found.values()]


def report(calls: list[Call], unit: float, options) -> dict[str, Any]:
    by = {name: tally(calls, name) for name in ("solver", "inverse")}
    bad = worst(calls, options.list)
    if unit == 1:
        for name, counts in by.items():
            show(name, counts)
    if bad:
        print()
        table(list(bad[0]), [list(row.values()) for row in bad])
    raised = Counter(call["raised"] for call in calls if "raised" in call)
    for text, count in raised.most_common(10):
        print(f"raised {count} times: {text}")
    print()
    return by | {"worst": bad, "raised": dict(raised)}


if __name__ == "__main__":
    main()
