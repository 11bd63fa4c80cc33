"""How many steps the inner problem and the adjoint need (figures 1 and 2 of the RCIG paper).

MNIST, one image per class. The paper's way (the plain transcription of Algorithm 1) with every
pair of counts of Adam steps, and linear algebra with so many steps of conjugate gradients in each
of its two solves. Beside each: the time of a meta-gradient relative to the paper's 20 + 20 steps
(median of turns), its error against a float64 solve, and the test accuracy after a short
distillation. All start from the same images and networks and see the same batches; Adam's rates
are those found for 20 steps. Without inner steps theta is 0, without adjoint steps the direct
gradient is all there is.

    python benchmarks/steps.py --help

Resumable: what the result file already holds is skipped.
"""

import json
import os
from dataclasses import dataclass, replace
from typing import Any

import _transcription as transcription
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from _report import RESULTS, table, write
from meta_step import Arguments as MetaStepArguments
from meta_step import Problem, distance, in_turns, make_problem, reference, tuned

from bilevel_distillation import Coreset, Distillation, EvaluationConfig, RunConfig, hold, judge
from bilevel_distillation.engine import Batch, coreset_gradient

BASE = (20, 20)


@dataclass(frozen=True)
class Arguments:
    """Settings.

    Attributes:
        counts: steps of Adam, in the inner problem and in the adjoint.
        cg: steps of conjugate gradients, in each.
        repeats: turns; times are medians.
        width: of the network.
        batch: real images in the outer loss.
        trained: steps that the network of the meta-gradient has been trained for.
        iterations: of distillation; 0: none.
        pool: networks.
        networks: trained for the accuracy.
        seed: of the distillation.
    """

    counts: tuple[int, ...] = (0, 2, 5, 10, 20, 30)
    cg: tuple[int, ...] = (2, 5, 10)
    repeats: int = 5
    width: int = 8
    batch: int = 256
    trained: int = 50
    iterations: int = 60
    pool: int = 5
    networks: int = 1
    seed: int = 0


def main(arguments: Arguments) -> None:
    path = RESULTS / "steps.json"
    held = json.loads(path.read_text()) if path.exists() else {}
    held.pop("machine", None)
    if "rows" not in held:
        held |= measure(arguments)
        write("steps", held)
    if arguments.iterations:
        distil(arguments, held)
    columns = ["way", "time", "error", "error of images", "test accuracy %"]
    accuracies = held.get("accuracies", {})
    table(columns, [[name, *row, accuracies.get(name, "")] for name, row in held["rows"].items()])


def pairs(arguments: Arguments) -> list[tuple[int, int]]:
    return [(i, a) for i in arguments.counts for a in arguments.counts]


def named(pair: tuple[int, int]) -> str:
    return f"Adam {pair[0]} + {pair[1]}"


def measure(arguments: Arguments) -> dict[str, Any]:
    problem = make_problem(
        "mnist10",
        MetaStepArguments(width=arguments.width, batch=arguments.batch, trained=arguments.trained),
    )
    exact = reference(problem)
    settings, plain = tuned(problem)
    coreset, batch = problem.state.coreset, (problem.images, problem.targets)
    ways: dict[str, Any] = {}
    for pair in dict.fromkeys([BASE, *pairs(arguments)]):
        ways[named(pair)] = lambda pair=pair: by_adam(settings, plain, coreset, *batch, *pair)[1:]
    for steps in arguments.cg:
        ways[f"CG {steps} + {steps}"] = by_cg(problem, steps)
    calls = {name: lambda way=way: way for name, way in ways.items()}
    times = in_turns(calls, arguments.repeats)
    rows = {}
    for name, way in ways.items():
        grad = jax.tree.map(jnp.add, *way())
        errors = distance(grad, exact.grad), distance(grad.images, exact.grad.images)
        rows[name] = [times[name] / times[named(BASE)], *errors]
    return {
        "settings": {
            **vars(arguments),
            "rates": [float(settings.inner_rate), float(settings.adjoint_rate)],
            "load": round(os.getloadavg()[0], 1),
        },
        "columns": ["time", "error", "error of images"],
        "rows": rows,
    }


def by_adam(settings, network, coreset, images, targets, inner: int, adjoint: int):
    """The outer loss, the direct and the implicit gradient after so many steps."""
    delta, adam = transcription.start(network)
    for _ in range(inner):
        delta, adam, _ = transcription.inner_step(settings, network, coreset, delta, adam)
    value, g, direct = transcription.differentiate_outer(
        settings, network, coreset, delta, images, targets
    )
    (v, adam), (unit, size) = transcription.start(network), transcription.normalise(g)
    for _ in range(adjoint):
        v, adam, _ = transcription.adjoint_step(settings, network, coreset, delta, unit, v, adam)
    v = transcription.scale(v, size)
    return value, direct, transcription.differentiate_inner(settings, network, coreset, delta, v)


def by_cg(problem: Problem, steps: int):
    recipe, _, state, draws, network, images, targets = problem
    solver = replace(recipe.method.solver, linear_solver="cg", rtol=1e-9, max_steps=steps)
    recipe = recipe.solved_by(solver)

    def gradient():
        batch = Batch(images, targets, network, state.rates, draws.key)
        found = coreset_gradient(recipe, state.coreset, batch)
        return found.direct, found.implicit

    return gradient


def distil(arguments: Arguments, held: dict[str, Any]) -> None:
    """Test accuracies, written as they come."""
    config = RunConfig(
        dataset="mnist", width=arguments.width, batch_size=arguments.batch, iterations=10_000,
        pool_size=arguments.pool, seed=arguments.seed, coreset_rate=3e-3, coreset_decay=1.0,
        linear_solver="cg", rtol=1e-9,
        evaluation=EvaluationConfig(repeats=arguments.networks),
    )  # fmt: skip
    one = Distillation(config)
    held_out = hold(one.data, one.preprocessor)
    inner_rate, adjoint_rate = held["settings"]["rates"]
    settings = transcription.Settings(
        ridge_rate=one.recipe.method.ridge_rate, inner_rate=inner_rate, adjoint_rate=adjoint_rate
    )
    accuracies = held.setdefault("accuracies", {})

    def keep(name: str, coreset: Coreset) -> None:
        distilled = replace(
            one.distilled(), images=np.asarray(coreset.images), labels=np.asarray(coreset.labels)
        )
        accuracies[name] = 100 * float(np.mean(judge(one.config, held_out, distilled)))
        print(name, accuracies[name], flush=True)
        write("steps", held)

    for pair in pairs(arguments):
        if named(pair) not in accuracies:
            keep(named(pair), transcribed(arguments, one, settings, *pair))
    for steps in arguments.cg:
        if (name := f"CG {steps} + {steps}") not in accuracies:
            way = Distillation(replace(config, cg_max_steps=steps), one.data, one.preprocessor)
            for _ in range(arguments.iterations):
                way.step()
            keep(name, way.state.averaged)


def transcribed(arguments: Arguments, one: Distillation, settings, inner: int, adjoint: int):
    """The moving average after a distillation by Algorithm 1, with the library's draws."""
    make_network = one.recipe.make_network
    key = jax.random.fold_in(jax.random.key(arguments.seed), 1)
    state = transcription.first_state(one.state.coreset, make_network, arguments.pool, key)
    pool = [
        replace(member, network=transcription.PlainConvNet.of(member.network))
        for member in state.pool
    ]
    pool = [
        replace(member, optimiser=transcription.POOL_OPTIMISER.init(member.network))
        for member in pool
    ]
    coreset, optimiser, average = state.coreset, state.optimiser, state.average
    averaged = state.averaged
    for iteration in range(arguments.iterations):
        rng = np.random.default_rng([arguments.seed, 1, iteration])
        which, steps = int(rng.integers(len(pool))), int(rng.integers(1, 16))
        rows = rng.choice(len(one.data.train_labels), arguments.batch, replace=False)
        images, targets = one.training.batch(jnp.asarray(rows))
        member = pool[which]
        gradients = by_adam(settings, member.network, coreset, images, targets, inner, adjoint)[1:]
        coreset, optimiser, averaged, average = transcription.update(
            settings, coreset, optimiser, average, *gradients
        )
        network, moments = transcription.train(
            settings, member.network, member.optimiser, coreset, steps
        )
        pool[which] = replace(member, network=network, optimiser=moments)
    return averaged


if __name__ == "__main__":
    main(tyro.cli(Arguments))
