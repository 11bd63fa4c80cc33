"""Error of RCIG's meta-gradient, in float64 on real images, against the dense solve.

The dense solve materialises the Hessian of the inner problem and factorises it. Beside it: central
finite differences of the re-solved outer loss along random directions, conjugate gradients cut off
after a few steps, and the paper's way with its tuned rates.

    python benchmarks/meta_gradient.py
"""

from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from _report import table, write
from jax.flatten_util import ravel_pytree

from bilevel import hypergradient
from bilevel.inverse_hvp import CG, SGD, Dense
from bilevel.solvers import GradientDescent, Newton
from bilevel_distillation import AbstractMethod, Coreset, Distillation, RunConfig, make_method
from bilevel_distillation.networks import AbstractNetwork, ConvNet, smooth_relu


@dataclass(frozen=True)
class Arguments:
    """Settings.

    Attributes:
        dataset: digits or mnist.
        ipc: distilled images per class: real ones, as at the start of a run.
        width: of the network.
        batch: real images in the outer loss.
        directions: for finite differences.
    """

    dataset: str = "mnist"
    ipc: int = 2
    width: int = 3
    batch: int = 100
    directions: int = 5


def main(arguments: Arguments) -> None:
    jax.config.update("jax_enable_x64", True)
    problem = make_problem(arguments)
    exact = meta_gradient(problem, Newton(Dense()), Dense())
    rows = []

    def row(name, found):
        error = distance(found.grad, exact.grad)
        rows.append([name, f"{error:.1e}", f"{float(found.adjoint.residual):.1e}"])
        print(f"{name}: {error:.1e}", flush=True)

    row("conjugate gradients to 1e-10", meta_gradient(problem, Newton(CG()), CG()))
    row("conjugate gradients to 1e-3", meta_gradient(problem, Newton(CG(1e-3)), CG(1e-3)))
    for steps in (2, 5, 10, 20):
        cut = CG(rtol=0.0, max_steps=steps)
        row(
            f"{steps} + {steps} steps of conjugate gradients",
            meta_gradient(problem, Newton(cut), cut),
        )
    for steps in (20, 50, 200):
        error, rates, found = best_adam(problem, exact, steps)
        row(f"{steps} + {steps} steps of Adam, best of {rates} pairs of rates", found)
    rows.append(["the direct gradient alone", f"{distance(exact.direct, exact.grad):.1e}", ""])
    worst = finite_differences(problem, exact.grad, arguments.directions)
    rows.append(
        [f"finite differences, worst of {arguments.directions} directions", f"{worst:.1e}", ""]
    )
    table(["meta-gradient", "relative error", "adjoint residual"], rows)
    write("meta_gradient", {"settings": vars(arguments), "rows": rows})


def make_problem(arguments: Arguments):
    config = RunConfig(dataset=arguments.dataset, ipc=arguments.ipc, width=arguments.width)
    one = Distillation(config)
    complete, coreset = one.config, one.state.coreset
    network = ConvNet(
        one.data.image_shape,
        one.data.classes,
        width=arguments.width,
        depth=complete.depth,
        padding=complete.padding,
        activation=smooth_relu,
        key=jax.random.key(0),
    )
    wide = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), coreset)
    images = jnp.asarray(one.training.images[: arguments.batch], jnp.float64)
    targets = jax.nn.one_hot(one.training.labels[: arguments.batch], one.data.classes)
    assert network.head.weight.dtype == jnp.float64 and isinstance(wide, Coreset)
    method = make_method("rcig", ridge_rate=complete.ridge_rate, microbatch=32)
    return method, network, wide, images, targets.astype(jnp.float64)


def meta_gradient(problem, solver, inverse_hvp):
    method, network, coreset, images, targets = problem
    compute = hypergradient(
        method.outer,
        method.inner,
        solver=solver,
        inverse_hvp=inverse_hvp,
        has_aux=True,
        throw="ignore",
    )
    return compute(
        coreset,
        method.start(network),
        outer_args=(network, images, targets),
        inner_args=(network,),
    )


def best_adam(problem, exact, steps: int):
    """The paper's way with the best of several pairs of rates; steps are dispatched."""
    found, adam = [], optax.adam(1.0)
    inner_rates, adjoint_rates = (1e-3, 3e-3, 1e-2), (1.0, 3.0, 10.0, 30.0)
    for inner_rate in inner_rates:
        for adjoint_rate in adjoint_rates:
            solver = GradientDescent(adam, steps, scale=inner_rate)
            inverse = SGD(adam, steps, scale=adjoint_rate)
            one = meta_gradient(problem, solver, inverse)
            found.append((distance(one.grad, exact.grad), one))
    error, one = min(found, key=lambda pair: pair[0])
    return error, len(found), one


class Inner(eqx.Module):
    """The inner loss as a function of theta, with its arrays as arguments."""

    method: AbstractMethod
    coreset: Coreset
    network: AbstractNetwork

    def __call__(self, theta):
        return self.method.inner(theta, self.coreset, self.network)


def finite_differences(problem, gradient, directions: int) -> float:
    method, network, coreset, images, targets = problem
    flat, unravel = ravel_pytree(coreset)
    tight = Newton(CG(1e-13, 400))

    def resolved(vector):
        psi = unravel(vector)
        theta, _ = tight(Inner(method, psi, network), method.start(network))
        return float(method.outer(theta, psi, network, images, targets)[0])

    rng, errors = np.random.default_rng(0), []
    for _ in range(directions):
        direction = rng.normal(size=flat.size)
        direction /= np.linalg.norm(direction)
        step = 1e-5 * direction
        difference = (resolved(flat + step) - resolved(flat - step)) / 2e-5
        slope = float(ravel_pytree(gradient)[0] @ direction)
        errors.append(abs(slope - difference) / abs(difference))
    return max(errors)


def distance(one, other) -> float:
    a, b = ravel_pytree(one)[0], ravel_pytree(other)[0]
    return float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))


if __name__ == "__main__":
    main(tyro.cli(Arguments))
