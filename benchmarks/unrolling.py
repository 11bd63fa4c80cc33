"""Memory and time of the gradient through 30 steps of descent, against plain backpropagation.

    python benchmarks/unrolling.py

A network of six layers (64 inputs, 256 wide, 10 classes), psi one weight for each row. Memory is
that of the compiled program beside its arguments; times are medians, taken in turns.
"""

import time
from statistics import median

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from _report import table, write

from bilevel import unrolled_grad
from bilevel.solvers import GradientDescent

STEPS, RUNS = 30, 7


def loss(network, psi, x, y):
    each = optax.softmax_cross_entropy_with_integer_labels(jax.vmap(network)(x), y)
    return jnp.mean(jax.nn.sigmoid(psi) * each)


def backpropagated(transformation, network, x, y):
    """The gradient as `jax.grad` takes it, through the same steps in `jax.lax.scan`."""
    theta0, static = eqx.partition(network, eqx.is_inexact_array)

    def of(psi):
        def step(carry, _):
            theta, state = carry
            grad = jax.grad(lambda t: loss(eqx.combine(t, static), psi, x, y))(theta)
            update, state = transformation.update(grad, state, theta)
            return (optax.apply_updates(theta, update), state), None

        start = (theta0, transformation.init(theta0))
        (theta, _), _ = jax.lax.scan(step, start, length=STEPS)
        return loss(eqx.combine(theta, static), psi, x, y)

    return jax.grad(of)


def ways(transformation, network, x, y):
    plain = backpropagated(transformation, network, x, y)
    yield "jax.grad through a scan", plain
    for name, remat in (("unrolled_grad", None), ("unrolled_grad, remat=6", 6)):
        solver = GradientDescent(transformation, STEPS)
        compute = unrolled_grad(loss, loss, solver=solver, remat=remat, throw="ignore")
        yield (
            name,
            lambda psi, compute=compute: compute(
                psi, network, outer_args=(x, y), inner_args=(x, y)
            ),
        )


def main() -> None:
    keys = jax.random.split(jax.random.key(0), 3)
    network = eqx.nn.MLP(64, 10, 256, 5, key=keys[0])
    found = []
    for rows in (512, 2048):
        x = jax.random.normal(keys[1], (rows, 64))
        y = jax.random.randint(keys[2], (rows,), 0, 10)
        psi = jnp.zeros(rows)
        for name, optimiser in (
            ("SGD", optax.sgd(0.01)),
            ("Adam", optax.adam(1e-3, eps_root=1e-8)),
        ):
            programs, times = {}, {}
            for way, compute in ways(optimiser, network, x, y):
                programs[way] = jax.jit(compute).lower(psi).compile()
                times[way] = []
            grads = {way: jax.block_until_ready(run(psi)) for way, run in programs.items()}
            for _ in range(RUNS):
                for way, run in programs.items():
                    began = time.perf_counter()
                    jax.block_until_ready(run(psi))
                    times[way].append(time.perf_counter() - began)
            first = next(iter(programs))
            for way, run in programs.items():
                gap = jnp.linalg.norm(grads[way] - grads[first]) / jnp.linalg.norm(grads[first])
                memory = run.memory_analysis().temp_size_in_bytes
                found.append({
                    "rows": rows, "optimiser": name, "way": way, "mebibytes": memory / 2**20,
                    "time against jax.grad": median(times[way]) / median(times[first]),
                    "difference": float(gap),
                })  # fmt: skip
    write("unrolling", {"steps": STEPS, "results": found})
    table(list(found[0]), [list(row.values()) for row in found])


if __name__ == "__main__":
    main()
