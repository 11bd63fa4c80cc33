"""Nothing compiles twice: from the second call with new arrays on, no program is built."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax
import optax
import pytest

from bilevel import argmin, fixed_point, hypergradient, minimize, root, unrolled_grad
from bilevel.inverse_hvp import CG, SGD, Dense, Identity, Lineax, Neumann, Nystrom
from bilevel.problems import Constrained, FixedPoint, Root
from bilevel.solvers import (
    LBFGS,
    Anderson,
    FixedPointIteration,
    GradientDescent,
    InteriorPoint,
    Newton,
    ProjectedGradient,
    ProximalGradient,
)


def inner(theta, psi, x):
    return jnp.mean((x @ theta - 1) ** 2) + jnp.exp(psi) * jnp.sum(theta**2)


def outer(theta, psi):
    return jnp.sum(theta**2)


def by_hand(loss, theta):
    return theta - 0.3 * jax.grad(loss)(theta)


SOLVERS = {
    "Newton": Newton(Dense(), steps=2),
    "LBFGS": LBFGS(max_steps=5),
    "descent": GradientDescent(optax.adam(0.1), 3),
    "descent to a tolerance": GradientDescent(optax.sgd(0.1), 3, tol=1e-3),
    "proximal gradient": ProximalGradient(lambda t, p, s: t, 0.1, max_steps=3),
    "projected gradient": ProjectedGradient(lambda t, p: jnp.clip(t, 0, 1), 0.1, max_steps=3),
}
INVERSES = {
    "CG": CG(),
    "CG, derived anew": CG(rederive=True),
    "CG, preconditioned": CG(preconditioner=Nystrom(rank=2)),
    "CG, dispatched": CG(loop="dispatch", max_steps=3),
    "Dense": Dense(damping=0.1),
    "Identity": Identity(),
    "Lineax": Lineax(lineax.GMRES(1e-5, 1e-5)),
    "Neumann": Neumann(3),
    "Nystrom": Nystrom(rank=2),
    "SGD": SGD(optax.sgd(0.1), 3),
}


def arguments(seed):
    keys = jax.random.split(jax.random.key(seed), 3)
    x = jax.random.normal(keys[0], (4, 2)) + 1
    return jax.random.normal(keys[1], ()), jax.random.normal(keys[2], (2,)), x


def count(run, compilations):
    """How many programs each of three calls compiled."""
    calls = [arguments(seed) for seed in range(3)]
    jax.block_until_ready(calls)
    counts = []
    for call in calls:
        before = compilations()
        jax.block_until_ready(run(*call))
        counts.append(compilations() - before)
    return counts


@pytest.mark.parametrize("name", [*SOLVERS, *INVERSES])
def test_hypergradient(name, compilations):
    settings = {
        "solver": SOLVERS.get(name, SOLVERS["descent"]), "inverse_hvp": INVERSES.get(name, CG()),
    }  # fmt: skip
    compute = hypergradient(outer, inner, throw="ignore", **settings)
    _, second, third = count(lambda p, t, x: compute(p, t, inner_args=(x,)).grad, compilations)
    assert second == third == 0 < compilations()


@pytest.mark.parametrize("name", SOLVERS)
def test_grad_of_argmin(name, compilations):
    fit = argmin(inner, solver=SOLVERS[name], throw="ignore")

    def value(psi, theta0, x):
        return outer(fit(psi, theta0, x), psi)

    _, second, third = count(jax.grad(value), compilations)
    assert second == third == 0 < compilations()


def residual(theta, psi, x):
    return x.T @ (x @ theta - 1) + jnp.exp(psi) * theta


def contraction(theta, psi, x):
    return jnp.tanh(0.1 * theta + psi * x[0])


def bounded(theta, psi, x):
    return theta - 1


OTHERS = {
    "root": (Root(residual), Newton(Dense(), steps=2)),
    "fixed point": (FixedPoint(contraction), FixedPointIteration(max_steps=5)),
    "fixed point, Anderson": (FixedPoint(contraction), Anderson(max_steps=5)),
    "constrained": (Constrained(inner, inequality=bounded), InteriorPoint(max_steps=5)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_problems(name, compilations):
    """The hypergradient, and the gradient of an operator that is made anew at each call."""
    problem, solver = OTHERS[name]
    settings = {"solver": solver, "inverse_hvp": Dense(), "throw": "ignore"}
    compute = hypergradient(outer, problem, **settings)
    _, second, third = count(lambda p, t, x: compute(p, t, inner_args=(x,)).grad, compilations)
    assert second == third == 0 < compilations()
    makers = {
        Root: lambda: root(residual, **settings),
        FixedPoint: lambda: fixed_point(contraction, **settings),
        Constrained: lambda: argmin(Constrained(inner, None, bounded), **settings),
    }

    def run(psi, theta0, x):
        fit = makers[type(problem)]()
        return jax.grad(lambda psi: outer(fit(psi, theta0, x), psi))(psi)

    _, second, third = count(run, compilations)
    assert second == third == 0


def test_a_function_that_is_made_anew_at_each_call_is_no_excuse(compilations):
    """`hypergradient(...)` itself may stand in the loop."""

    def run(psi, theta0, x):
        compute = hypergradient(outer, inner, solver=LBFGS(max_steps=5), throw="ignore")
        return compute(psi, theta0, inner_args=(x,)).grad

    _, second, third = count(run, compilations)
    assert second == third == 0 < compilations()


def test_unrolling(compilations):
    compute = unrolled_grad(outer, inner, solver=SOLVERS["descent"])
    _, second, third = count(lambda p, t, x: compute(p, t, inner_args=(x,)), compilations)
    assert second == third == 0 < compilations()


def closing_over(x, y):
    """Both losses, of the same code and with other data."""

    def inner(theta, psi):
        return jnp.mean((x @ theta - y) ** 2) + jnp.exp(psi) * jnp.sum(theta**2)

    def outer(theta, psi):
        return jnp.mean(jax.nn.softplus(x @ theta)), {"rest": x @ theta - y}

    return outer, inner


def test_losses_made_anew_compile_nothing_and_hold_no_data(compilations):
    """A loop whose body defines its losses, with data that change."""

    def run(psi, theta0, x):
        outer, inner = closing_over(x, jnp.sin(x[:, 0]))
        compute = hypergradient(
            outer, inner, solver=LBFGS(max_steps=5), has_aux=True, throw="ignore"
        )
        h = compute(psi, theta0)
        assert jnp.array_equal(h.aux["rest"], x @ h.theta - jnp.sin(x[:, 0]))
        return h.grad

    _, second, third = count(run, compilations)
    assert second == third == 0 < compilations()


def test_minimize_made_anew_compiles_nothing(compilations):
    def run(scale):
        keys = jax.random.split(jax.random.key(0), 2)
        x, y = scale * jax.random.normal(keys[0], (20, 3)), jax.random.normal(keys[1], (20,))
        outer, inner = closing_over(x, y)
        return minimize(
            outer, inner, jnp.asarray(-3.0), jnp.zeros(3), has_aux=True, max_steps=2, throw="ignore"
        ).theta

    first = run(1.0)
    before = compilations()
    second = run(1.001)
    assert compilations() == before
    assert not jnp.array_equal(second, first)


@jax.custom_vjp
def ruled(x):
    return 2 * x


ruled.defvjp(lambda x: (2 * x, None), lambda _, g: (2 * g,))


class Held(eqx.Module):
    shift: jax.Array

    def with_rule(self, theta, psi, x):
        return inner(ruled(theta) + self.shift, psi, x)


def with_rule(theta, psi, x):
    return inner(ruled(theta), psi, x)


def echoed(theta, psi, x):
    x = jax.pure_callback(lambda x: x, jax.ShapeDtypeStruct(x.shape, x.dtype), x)
    return inner(theta, psi, x)


@pytest.mark.parametrize("kind", ["function", "method", "callback"])
def test_what_jax_wraps_anew_at_each_trace_compiles_once(kind, compilations):
    loss = {"function": with_rule, "callback": echoed}.get(kind, Held(jnp.ones(2)).with_rule)
    compute = hypergradient(outer, loss, solver=SOLVERS["descent"], throw="ignore")
    _, second, third = count(lambda p, t, x: compute(p, t, inner_args=(x,)).grad, compilations)
    assert second == third == 0 < compilations()
