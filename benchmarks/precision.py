"""What tensorfloat32 and bfloat16 do to the meta-gradient and to the distilled set.

Where no accelerator has them they are emulated: the operands of each matrix product in the
meta-iteration, convolutions included, are rounded to 10 or 7 bits of mantissa, as tensor cores
take them, and are multiplied and added in float32. Products that ask for the highest precision,
those of the small solves, are left alone. The error is that of the whole meta-gradient, and of its
part for the images, against float64; the accuracy that of networks trained in float32 on what was
distilled.

    python benchmarks/precision.py --help
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import numpy as np
import tyro
from _report import table, write
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from meta_step import Arguments as MetaStep
from meta_step import distance, make_problem, reference

from bilevel import Result
from bilevel_distillation import Distillation, EvaluationConfig, RunConfig, hold, judge
from bilevel_distillation.engine import linear_gradient, meta_step

MANTISSA = {"float32": 23, "tensorfloat32": 10, "bfloat16": 7}


CALLS = ("jit", "pjit", "closed_call", "checkpoint", "remat", "remat2", "custom_jvp_call",
         "custom_vjp_call")  # fmt: skip
LOOPS = ("while", "scan", "cond")


@dataclass(frozen=True)
class Arguments:
    """Settings.

    Attributes:
        cases: problems of `meta_step.py`.
        trained: steps that their network has been trained for.
        seeds: distillations of digits in each precision; 0 for none.
        iterations: meta-iterations of each.
        width: of the network.
    """

    cases: tuple[str, ...] = ("mnist10", "cifar20")
    trained: int = 50
    seeds: int = 3
    iterations: int = 300
    width: int = 32


def main(arguments: Arguments) -> None:
    errors = []
    for case in arguments.cases:
        errors += errors_of(case, arguments)
    heads = ["problem", "precision", "error", "of images", "steps", "result"]
    table(heads, errors)
    accuracies = {
        name: [accuracy_of(bits, seed, arguments) for seed in range(arguments.seeds)]
        for name, bits in MANTISSA.items()
    }
    for name, found in accuracies.items():
        print(name, [round(100 * one, 1) for one in found])
    settings = {
        "width": arguments.width,
        "network trained for": arguments.trained,
        "iterations": arguments.iterations,
        "seeds": arguments.seeds,
    }
    write(
        "precision",
        {"settings": settings, "columns": heads, "rows": errors, "accuracies": accuracies},
    )


def errors_of(case: str, arguments: Arguments) -> list[list[Any]]:
    settings = MetaStep(width=arguments.width, trained=arguments.trained)
    problem = make_problem(case, settings)
    exact = reference(problem)
    recipe, coreset = problem.recipe, problem.state.coreset
    rows = []
    for name, bits in MANTISSA.items():
        found = in_precision(linear_gradient, bits)(
            recipe.method.solver,
            recipe.method,
            coreset,
            problem.network,
            problem.images,
            problem.targets,
        )
        steps = f"{int(found.inner.steps)} + {int(found.adjoint.steps)}"
        results = found.inner.result, found.adjoint.result
        clean = all(bool(one == Result.successful) for one in results)
        errors = distance(found.grad, exact.grad), distance(found.grad.images, exact.grad.images)
        rows.append([case, name, *errors, steps, "as asked for" if clean else "said to be short"])
        print(*rows[-1], flush=True)
    return rows


def accuracy_of(bits: int, seed: int, arguments: Arguments) -> float:
    """Mean test accuracy of three networks trained on ten distilled digits."""
    config = RunConfig(
        dataset="digits",
        width=arguments.width,
        iterations=arguments.iterations,
        seed=seed,
        evaluation=EvaluationConfig(repeats=3),
    )
    distillation = Distillation(config)
    step = in_precision(meta_step, bits)
    for _ in range(arguments.iterations):
        distillation.state, _ = step(*distillation.next_arguments())
        distillation.iteration += 1
    held = hold(distillation.data, distillation.preprocessor)
    return float(np.mean(judge(distillation.config, held, distillation.distilled())))


def in_precision(function: Callable, bits: int) -> Callable:
    """The function, compiled, with the operands of its products rounded."""

    def run(*args):
        arrays, static = eqx.partition(args, eqx.is_array)
        out_static = []

        def of_arrays(arrays):
            found, rest = eqx.partition(function(*eqx.combine(arrays, static)), eqx.is_array)
            out_static.append(rest)
            return found

        program, shapes = jax.make_jaxpr(of_arrays, return_shape=True)(arrays)
        out = evaluate(program.jaxpr, program.consts, jax.tree.leaves(arrays), bits)
        return eqx.combine(jax.tree.unflatten(jax.tree.structure(shapes), out), out_static[0])

    return eqx.filter_jit(run)


def evaluate(program: Jaxpr, consts: Sequence[Any], args: Sequence[Any], bits: int) -> list[Any]:
    values = dict(zip((*program.constvars, *program.invars), (*consts, *args), strict=True))
    for equation in program.eqns:
        given = [v.val if isinstance(v, Literal) else values[v] for v in equation.invars]
        found = apply(equation, given, bits)
        values.update(zip(equation.outvars, found, strict=True))
    return [v.val if isinstance(v, Literal) else values[v] for v in program.outvars]


def apply(equation: Any, given: list[Any], bits: int) -> Sequence[Any]:
    primitive, params = equation.primitive, equation.params
    if primitive.name in CALLS:
        program = params.get("jaxpr", params.get("call_jaxpr"))
        if isinstance(program, ClosedJaxpr):
            return evaluate(program.jaxpr, program.consts, given, bits)
        return evaluate(program, (), given, bits)
    if primitive.name in LOOPS:
        params = jax.tree.map(
            lambda p: rounded(p, bits) if isinstance(p, ClosedJaxpr) else p,
            params,
            is_leaf=lambda p: isinstance(p, ClosedJaxpr) or p is None,
        )
    elif primitive.name in ("dot_general", "conv_general_dilated") and not is_highest(params):
        given = [lax.reduce_precision(x, exponent_bits=8, mantissa_bits=bits) for x in given]
    found = primitive.bind(*given, **params)
    return found if primitive.multiple_results else [found]


def is_highest(params: dict[str, Any]) -> bool:
    precision = params["precision"]
    return precision is not None and lax.Precision.HIGHEST in np.atleast_1d(precision)


def rounded(program: ClosedJaxpr, bits: int) -> ClosedJaxpr:
    shapes = [
        jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=aval.weak_type)
        for aval in program.in_avals
    ]
    return jax.make_jaxpr(lambda *args: evaluate(program.jaxpr, program.consts, args, bits))(
        *shapes
    )


if __name__ == "__main__":
    main(tyro.cli(Arguments))
