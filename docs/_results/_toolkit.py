"""Sections on the toolkit and on faults."""

import math
from statistics import mean, median, pstdev
from typing import Any

from ._writing import OPEN, Read, on, power, short, table


def toolkit(read: Read) -> list[str]:
    parts = ["## The toolkit"]
    peers, inverses = read("peers"), read("inverses")
    if peers is None:
        parts.append(f"Beside other libraries: {OPEN}.")
    else:
        names = ["jaxopt", "optimistix", "torchopt"]
        rows = []
        for one in peers["results"]:
            by = {row["contestant"]: row for row in one["rows"]}
            ours = min((by["bilevel"], by["bilevel, jit"]), key=lambda row: row["milliseconds"])
            cells = [
                f"{by[n]['ratio']:.2f}{' *' if by[n]['error'] > 1.5e-3 else ''}"
                if n in by
                else None
                for n in names
            ]
            rows.append([one["problem"], f"{ours['milliseconds']:.1f}", power(ours["error"]),
                         *cells])  # fmt: skip
        versions = [f"{name} {peers['peers'][name]}" for name in names if name in peers["peers"]]
        parts += [
            "One hypergradient by conjugate gradients at the same solution and accuracy: ours, and "
            "how many times as long the others take (`benchmarks/peers.py`). A star: at an error "
            "above 1.5e-3, where 1e-3 was asked for. Our time includes what the verdict takes, "
            "three products with a Hessian: F at theta, the residual afresh, and the outer Hessian "
            "times v. They show beside 20 steps (ridge, logistic), not beside 250 (network).",
            table(["problem", "ours, ms", "our error", *versions], rows),
        ]
    parts += best_inverses(inverses)
    if derivatives := read("derivatives"):
        rows = [[r["what"], r["way"], short(r["milliseconds"]), f"{r['ratio']:.1f}"]
                for r in derivatives["results"]]  # fmt: skip
        parts += ["What two choices inside are worth (`benchmarks/derivatives.py`):",
                  table(["what", "way", "ms", "times the best"], rows)]  # fmt: skip
    if unrolling := read("unrolling"):
        rows = [[r["rows"], r["optimiser"], r["way"], short(r["mebibytes"]),
                 f"{r['time against jax.grad']:.2f}"] for r in unrolling["results"]]  # fmt: skip
        parts += [
            f"The gradient through {unrolling['steps']} steps of a network of six layers, "
            "256 wide (`benchmarks/unrolling.py`):",
            table(["rows", "optimiser", "way", "MiB", "time, in that of jax.grad"], rows),
        ]
    if preconditioners := read("preconditioners"):
        rows = [[r["problem"], r["preconditioner"], r["steps"] or "-",
                 short(r["time, in that of the fastest"]) if r["steps"] else "-"]
                for r in preconditioners["results"]]  # fmt: skip
        parts += [
            "Conjugate gradients to an error of 1e-3 of the hypergradient "
            "(`benchmarks/preconditioners.py`). K-FAC is written out there for this network, its "
            "factors not counted in the time, and is not in the library: it would have to know "
            "each kind of layer, and halves the steps at best.",
            table(["problem", "preconditioner", "steps", "time, in that of the fastest"], rows),
        ]
    if loops := read("loops"):
        rows = [[r["network"], r["way"], short(1000 * r["seconds"]),
                 short(r["first_call_seconds"])] for r in loops["results"]]  # fmt: skip
        parts += [f"{loops['steps']} gradient steps on a CPU, and how they are run "
                  "(`benchmarks/loops.py`):",
                  table(["network", "way", "ms", "first call, s"], rows)]  # fmt: skip
    return parts


def whole_problems(read: Read) -> list[str]:
    found = read("whole_problems")
    parts = [
        "## Whole problems",
        "Seconds until the outer loss is within 0.1 % of the best known, not counting compilation, "
        "and the seconds that compiling took before; the lowest outer loss that each met. "
        "`minimize` with its defaults; jaxopt and optimistix with SciPy's L-BFGS-B outside; SOBA, "
        "SABA, SRBA and AmIGO by the code of benchopt/benchmark_bilevel, at the rates that it "
        "publishes where it does (`benchmarks/whole_problems.py`, float64). Every psi on the way "
        "is judged by the outer loss where the inner problem is solved, for the network of 300 "
        "sigmoids after 20 steps of Newton's method at most. A run had the "
        "seconds at the head of its table, and the time to end the step it was at; "
        "\u201cnever\u201d is: not in that time.",
    ]
    if found is None:
        return [*parts, f"{OPEN.capitalize()}."]
    for name, rows in found["problems"].items():
        curves = {who: row["curve"] for who, row in rows.items()}
        best = min(value for curve in curves.values() for _, value in curve if value == value)
        level = best + 1e-3 * abs(best)
        cells = []
        for who, row in rows.items():
            seconds = next((at for at, value in row["curve"] if value <= level), None)
            least = min((value for _, value in row["curve"]), default=None)
            cells.append([
                who,
                "failed" if "failed" in row else "never" if seconds is None else short(seconds),
                short(row["compiling"]),
                None if least is None else f"{least:.5g}",
                ", ".join(f"{what} {much:.3f}" for what, much in row["measures"].items())
                if "measures" in row else None,
            ])  # fmt: skip
        had = max(row["seconds"] for row in rows.values())
        heads = [f"{name.replace('_', ' ')}, {had:.0f} s", "seconds", "compiling",
                 "lowest outer loss", ""]  # fmt: skip
        parts += [table(heads, cells), *_passed(curves)]
    if loops := read("single_loops"):
        rows = [
            [r["method"], r["of"], f"{r['steps']:,}",
             f"{mean(r['values']):.4f} ± {pstdev(r['values']):.4f}", short(median(r["seconds"]))]
            for r in loops["results"]
        ]  # fmt: skip
        parts += [
            "Our single loops beside the suite's own on its MNIST cleaning problem, at the rates "
            "that it publishes and after as many steps, over five seeds "
            "(`benchmarks/single_loops.py`):",
            table(["method", "of", "steps", "outer loss", "seconds"], rows),
        ]
    return parts


def _passed(curves: dict[str, list[list[float]]]) -> list[str]:
    """When `minimize` had what the best of the others reached, where any reached anything."""
    ours = curves.get("minimize", [])
    others = [
        (seconds, value)
        for who, curve in curves.items()
        for seconds, value in curve
        if who != "minimize" and math.isfinite(value)
    ]
    if not others:
        return []
    lowest = min(value for _, value in others)
    level = lowest + 1e-3 * abs(lowest)
    theirs = min(seconds for seconds, value in others if value <= level)
    there = next((seconds for seconds, value in ours if value <= level), None)
    after = "never" if there is None else f"after {short(there)} s"
    return [
        f"The lowest of the others, {lowest:.4g}, was within 0.1 % after {short(theirs)} s; "
        f"`minimize` was there {after}."
    ]


def best_inverses(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return [f"Inverse Hessians: {OPEN}."]
    shown = [r for r in found["results"] if r["dtype"] == "float32" and r["spectrum"] == "even"]
    methods_ = list(dict.fromkeys(row["method"] for r in shown for row in r["rows"]))
    rows = []
    for method in methods_:
        cells = []
        for one in shown:
            own = [row for row in one["rows"] if row["method"] == method]
            finite = [row for row in own if math.isfinite(row["error"] or math.nan)]
            best = min(finite, key=lambda row: row["error"], default=None)
            cells.append(best and f"{power(best['error'], 0)} ({short(best['milliseconds'])} ms)")
        rows.append([method, *cells])
    heads = [f"condition {r['condition']:,.0f}" for r in shown]
    return [
        "Inverse Hessians: the least error that each reaches with any of its settings, and the "
        f"time of that one ({found['settings']['size']} parameters, even spectrum, float32; "
        "`benchmarks/inverses.py` has the others).",
        table(["method", *heads], rows),
    ]


def fuzz(read: Read) -> list[str]:
    found = read("fuzz")
    parts = [
        "## Right, said, or silently wrong",
        "Hypergradients of many small problems by the solvers and inverse Hessians below, in "
        "float32 and float64, against dense solutions in float64 (`benchmarks/fuzz.py`). *Right* "
        "is within 1 % and called a success; *said* is anything that is called something else, "
        "right or not; *silently wrong* is off by more than 1 % and called a success.",
    ]
    if found is None:
        return [*parts, f"{OPEN.capitalize()}."]
    (unit,) = found["units"].values()
    for by in ("solver", "inverse"):
        heads = list(unit[by]["all"])
        rows = [[name, *(short(one[head]) for head in heads)] for name, one in unit[by].items()]
        parts.append(table([by, *heads], rows))
    if moved := read("fuzz_units"):
        units = {u: one for u, one in moved["units"].items() if "moved" in one}
        rows = [
            [f"times {u}", short(sum(one["moved"].values())),
             short(one["solver"]["all"]["silently wrong"])]
            for u, one in units.items()
        ]  # fmt: skip
        heads = ["inner loss", "calls with another verdict", "silently wrong"]
        parts += [
            "The same with the inner loss in other units, which should change nothing:",
            table(heads, rows),
        ]
    return [*parts, *fuzz_minimize(read)]


def fuzz_minimize(read: Read) -> list[str]:
    parts = [
        "`minimize` with its defaults on families of small problems with random data and units. A "
        "dense Newton method in float64 then solves the inner problem at the psi that was found, "
        "and SciPy's L-BFGS-B goes on from there, within 1 of each number of psi. *At the minimum* "
        "is a success from which SciPy gains at most 1 % of what there was to gain; *short of it* "
        "one from which it gains more; *untrue* is a value, of a success or not, that is off by "
        "more than 1 % of that (`benchmarks/fuzz_minimize.py`).",
    ]
    found = read("fuzz_minimize")
    if found is None:
        return [*parts, f"{OPEN.capitalize()}."]
    counts = {
        f"{name}, {dtype}": one["counts"]
        for name, family in found["families"].items()
        for dtype, one in family.items()
    }
    heads = list(next(iter(counts.values())))
    rows = [[name, *one.values()] for name, one in counts.items()]
    rows.append(["all", *(sum(one[head] for one in counts.values()) for head in heads)])
    return [*parts, table(["problems", *heads], rows)]


FAULTS = {
    "kills": "SIGKILL before random file events of a run, some of them one after the other",
    "unreadable": "files and folders of checkpoints that may not be read",
    "disks": "disks of so little room that most runs cannot end; then there is more",
    "processes": "a second process, with the same settings and with others",
    "flat": "2,000 meta-iterations: least and most, after a tenth of them",
}


def faults(read: Read) -> list[str]:
    one = read("faults")
    found = {} if one is None else one["found"]
    rows = [["one bit turned in " + file, counts(seen)]
            for file, seen in found.get("flips", {}).items()]  # fmt: skip
    rows += [[what, counts(found[part]) if part in found else OPEN]
             for part, what in FAULTS.items()]  # fmt: skip
    return [
        "## Faults",
        "What comes of a run of ten digits, twelve meta-iterations with a checkpoint after each, "
        "beside one that nothing happened to: always the same bits, or a sentence that names the "
        f"file. (`benchmarks/faults.py`{on(one)})",
        table(["fault", "how often what came of it"], rows),
    ]


def counts(seen: dict[str, Any]) -> str:
    """A word in capitals is what must not be; where there is none, there was none."""
    return ", ".join(f"{what}: {count}" for what, count in seen.items())
