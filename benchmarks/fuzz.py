"""A fuzz of hypergradients: right, said, or silently wrong, by solver and by inverse Hessian.

    python benchmarks/fuzz.py                  all of it, some minutes
    python benchmarks/fuzz.py --quick          a part, below a minute
    python benchmarks/fuzz.py --unit 1e-8      the inner loss times 1e-8, compared to unit 1
    python benchmarks/fuzz.py --only "vector, ridge" --verbose

Each call of `hypergradient(..., throw="ignore")` is *right* (both results are `successful`, and
`grad` is within 1 % of the dense solution in float64), *said* (one of the results is not
`successful`), or *silently wrong*. Of what was said, `alarms` are right within 1 % all the same:
with a failure, which `throw="raise"` would raise, or with another word (`approximate`, ...).

Every problem meets all solvers with `CG()`, all inverse Hessians with a callable that knows theta*,
and a seeded sample of other pairs. Calls are kept under runs/fuzz, by unit and by the toolkit's
source: a run that was stopped goes on where it was. Programs are compiled quickly, not well.
"""

import argparse
import hashlib
import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

FLAGS = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_multi_thread_eigen=false"
)
if __name__ == "__main__":  # before jax is imported
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}"

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from _fuzz_methods import inverses, proximal_solvers, solvers
from _fuzz_problems import Form, Problem, problems, shaped, to_simplex
from _fuzz_reference import Reference, operator_of
from _report import table, write

import bilevel
from bilevel import Result, hypergradient

DTYPES = ("float32", "float64")
TOLERANCE = 1e-2
NO_FAILURE = ("successful", "approximate", "not_judged")
KEPT = Path(__file__).parents[1] / "runs" / "fuzz"
EXACT = "callable, exact"


def pairs(form: Form, unit: float, dtype: str, extra: int) -> list[tuple[str, str]]:
    """(solver, inverse) of every problem of a form: both columns, and a sample of the rest."""
    known = list(inverses(unit))
    if form.constraint:
        names = list(proximal_solvers(form.constraint, to_simplex))
        return [(names[0], i) for i in known] + [(name, "CG") for name in names[1:]]
    names = list(solvers(unit, dtype))
    chosen = [(name, "CG") for name in names] + [(EXACT, i) for i in known if i != "CG"]
    rest = [(s, i) for s in names for i in known if (s, i) not in chosen]
    seed = np.random.default_rng(list(f"{form.name} {dtype}".encode()))
    return chosen + [rest[i] for i in seed.choice(len(rest), extra, replace=False)]


class Caller:
    """Calls of one problem in one precision."""

    def __init__(self, problem: Problem, dtype: str, unit: float, programs: dict):
        self.problem, self.dtype, self.unit, self.programs = problem, dtype, unit, programs
        with jax.enable_x64(True):
            self.reference = Reference(problem, dtype, unit)
            theta = shaped(problem.form.theta, self.reference.theta)
        self.rate = jnp.asarray(1 / (1.05 * self.reference.curvature), dtype)
        self.theta = self._cast(theta)
        self.arguments = (
            self._cast(problem.psi),
            self._cast(problem.theta0),
            self._cast(problem.inner | {"unit": np.asarray(unit)}),
            self._cast(problem.outer),
        )
        self.rights: dict[Any, Any] = {}

    def _cast(self, tree):
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, self.dtype), tree)

    def __call__(self, solver: str, inverse: str) -> dict[str, Any]:
        damping, make_inverse = inverses(self.unit)[inverse]
        call = {"solver": solver, "inverse": inverse}
        try:
            h = self._run(self._solver(solver), make_inverse(self.rate), (solver, inverse))
        except Exception as error:  # a fuzz goes on
            return call | {"error": None, "raised": f"{type(error).__name__}: {error}"[:200]}
        theta, grad = (
            np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(t)])
            for t in (h.theta, h.grad)
        )
        with jax.enable_x64(True):
            right = self._right(theta, damping)
        error = float(np.linalg.norm(grad - right.grad) / max(right.scale, 1e-300))
        return call | {
            "error": error if np.isfinite(error) else 1e300,
            "inner": outcome(h.inner.result),
            "adjoint": outcome(h.adjoint.result),
            "kind": right.kind,
        }

    def _solver(self, name):
        if self.problem.form.constraint:
            made = proximal_solvers(self.problem.form.constraint, to_simplex)[name]
            return made(self.rate, self.theta, self._cast(operator_of(self.problem, self.unit)))
        return solvers(self.unit, self.dtype)[name](self.rate, self.theta)

    def _run(self, solver, inverse, key):
        form = self.problem.form
        arrays, static = eqx.partition((solver, inverse), eqx.is_array)
        if key not in self.programs:

            @eqx.filter_jit
            def program(arrays, psi, theta0, inner_data, outer_data):
                solver, inverse = eqx.combine(arrays, static)
                compute = hypergradient(
                    form.outer, form.inner, solver=solver, inverse_hvp=inverse, throw="ignore"
                )
                return compute(psi, theta0, inner_args=(inner_data,), outer_args=(outer_data,))

            self.programs[key] = program
        return jax.block_until_ready(self.programs[key](arrays, *self.arguments))

    def _right(self, theta, damping):
        """Once for a convex problem; where there are several minima, for each theta."""
        key = damping if self.problem.convex else (damping, theta.tobytes())
        if key not in self.rights:
            self.rights[key] = self.reference.right(theta, damping)
        return self.rights[key]


def outcome(result: Result) -> str:
    """The name of a result, whatever names there are."""
    named = Result._name_to_item.items()  # equinox has no public list of them
    return next(name for name, item in named if bool(result == item))


def verdict(call: dict[str, Any]) -> str:
    """right, silent, or said: `said` alone where wrong, `alarm` (a failure) or `hedged` if right."""
    if "raised" in call:
        return "raised"
    close = call["error"] <= TOLERANCE
    said = {call["inner"], call["adjoint"]} - {"successful"}
    if not said:
        return "right" if close else "silent"
    if not close:
        return "said"
    return "hedged" if said <= set(NO_FAILURE) else "alarm"


def tally(calls: list[dict[str, Any]], by: str) -> dict[str, dict[str, int]]:
    """Counts of each verdict, by solver or by inverse."""
    counts: dict[str, Counter] = {}
    for call in calls:
        counts.setdefault(call[by], Counter())[verdict(call)] += 1
    return {name: dict(found) for name, found in counts.items()}


def show(title: str, counts: dict[str, dict[str, int]]):
    rows = []
    for name, found in [*counts.items(), ("all", sum(map(Counter, counts.values()), Counter()))]:
        alarm, hedged = found.get("alarm", 0), found.get("hedged", 0)
        said = found.get("said", 0) + found.get("raised", 0) + alarm + hedged
        rows.append([name, found.get("right", 0), said, alarm, hedged, found.get("silent", 0)])
    print()
    table([title, "right", "said", "alarm: failure", "alarm: other", "silently wrong"], rows)


def describe(call: dict[str, Any]) -> list[Any]:
    words = f"{call['inner']}, {call['adjoint']}, {call['kind']}"
    return [call["error"], call["solver"], call["inverse"], call["dtype"], call["problem"], words]


def digest() -> str:
    """Of the toolkit's and the fuzz's own sources: calls of other code are not taken over."""
    here = Path(__file__).parent
    files = [*Path(bilevel.__file__).parent.rglob("*.py"), *here.glob("*fuzz*.py")]
    text = b"".join(file.read_bytes() for file in sorted(files))
    return hashlib.sha256(text).hexdigest()[:12]


def run(chosen: list[Problem], unit: float, extra: int, kept: Path | None, verbose: bool = False):
    """All calls of all problems; those already in the file `kept` are taken from there."""
    known = {}
    if kept is not None and kept.exists():
        lines = [json.loads(line) for line in kept.read_text().splitlines()]
        known = {(line["problem"], line["dtype"]): line["calls"] for line in lines}
    calls = []
    for dtype in DTYPES:
        last, programs = None, {}
        for number, problem in enumerate(chosen):
            if problem.form.name != last:
                last, programs = problem.form.name, {}
                jax.clear_caches()
            found = known.get((problem.name, dtype))
            if found is None:
                start = time.perf_counter()
                with jax.enable_x64(dtype == "float64"):
                    call = Caller(problem, dtype, unit, programs)
                    found = [call(*pair) for pair in pairs(problem.form, unit, dtype, extra)]
                if kept is not None:
                    kept.parent.mkdir(parents=True, exist_ok=True)
                    line = {"problem": problem.name, "dtype": dtype, "calls": found}
                    with kept.open("a") as file:
                        file.write(json.dumps(line) + "\n")
                seconds = time.perf_counter() - start
                silent = sum(verdict(call) == "silent" for call in found)
                if verbose or silent or seconds > 5:
                    print(f"{dtype} {number + 1:3}/{len(chosen)} {seconds:5.1f} s, {silent:2} "
                          f"silently wrong: {problem.name}", flush=True)  # fmt: skip
            calls += [call | {"problem": problem.name, "dtype": dtype} for call in found]
    return calls


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--unit", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--extra", type=int, default=8, help="sampled pairs a form")
    parser.add_argument("--only", default="", help="problems whose names hold this")
    parser.add_argument("--quick", action="store_true", help="every eighth problem of two forms")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--worst", type=int, default=15, help="how many to list")
    options = parser.parse_args()
    chosen = [problem for problem in problems(options.seed) if options.only in problem.name]
    if options.quick:
        chosen = [p for p in chosen if p.form.name in ("vector", "box")][::6]
    jax.config.update("jax_compilation_cache_dir", str(KEPT / "programs"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    name = f"{digest()}_seed_{options.seed}_extra_{options.extra}_unit_{options.unit:g}.jsonl"
    start = time.perf_counter()
    calls = run(chosen, options.unit, options.extra, KEPT / name, options.verbose)
    for by in ("solver", "inverse"):
        show(by, tally(calls, by))
    silent = sorted((c for c in calls if verdict(c) == "silent"), key=lambda c: -c["error"])
    print(f"\n{len(chosen)} problems, {len(calls)} calls, {time.perf_counter() - start:.0f} s; "
          f"silently wrong: {len(silent)}")  # fmt: skip
    if silent:
        headers = ["error", "solver", "inverse", "dtype", "problem", "inner, adjoint, kind"]
        table(headers, [describe(call) for call in silent[: options.worst]])
    raised = Counter(call["raised"] for call in calls if "raised" in call)
    for text, count in raised.most_common(10):
        print(f"raised {count} times: {text}")


if __name__ == "__main__":
    main()
