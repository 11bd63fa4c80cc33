"""Hypergradients by solving the inner problem again: against dense solves, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bilevel import Result, argmin, hypergradient, implicit_grad
from bilevel._differences import stencil
from bilevel.inverse_hvp import Dense, FiniteDifference
from bilevel.problems import Root
from bilevel.solvers import GradientDescent, Newton


def inner(theta, psi, x, y, *, key=None):
    noise = 0.0 if key is None else 0.1 * jax.random.normal(key, y.shape)
    fit = jnp.logaddexp(0, -(y + noise) * (x @ theta["w"] + theta["b"])).mean()
    return fit + (jnp.exp(psi) * theta["w"] ** 2).sum() + 0.05 * theta["b"] ** 2


def outer(theta, psi, x, y):
    return jnp.logaddexp(0, -y * (x @ theta["w"] + theta["b"])).mean() + 0.01 * (psi**2).sum()


@pytest.fixture
def problem(x64):
    keys = jax.random.split(jax.random.key(0), 2)
    x = jax.random.normal(keys[0], (30, 4))
    y = jnp.sign(x[:, 0] + 0.5 * jax.random.normal(keys[1], (30,)))
    theta0 = {"w": jnp.zeros(4), "b": jnp.asarray(0.0)}
    return jnp.linspace(-3, -1, 4), theta0, (x[:20], y[:20]), (x[20:], y[20:])


def compute(inverse, problem, loss=inner, solver=None, unit=1.0, **kwargs):
    psi, theta0, train, valid = problem

    def scaled(theta, psi, x, y, **keys):
        return unit * loss(theta, psi, x, y, **keys)

    run = hypergradient(
        outer, scaled, solver=solver or Newton(Dense(), steps=12), inverse_hvp=inverse
    )
    return run(psi, theta0, inner_args=train, outer_args=valid, **kwargs)


def apart(one, other):
    return float(jnp.linalg.norm(one - other) / jnp.linalg.norm(other))


@pytest.mark.parametrize(("order", "error"), [(1, 1e-6), (2, 1e-8), (3, 1e-8), (4, 1e-8)])
def test_equals_the_dense_solve(problem, order, error):
    expected, found = (compute(how, problem) for how in (Dense(), FiniteDifference(order)))
    assert apart(found.grad, expected.grad) < error
    assert apart(found.adjoint.v["w"], expected.adjoint.v["w"]) < 10 * error
    np.testing.assert_allclose(found.direct, expected.direct, rtol=1e-12)
    assert found.adjoint.result == Result.approximate
    assert found.inner.result == Result.successful


def test_the_error_falls_with_the_order(problem):
    expected = compute(Dense(), problem).grad
    coarse = [
        apart(compute(FiniteDifference(order, step=0.02), problem).grad, expected)
        for order in (1, 2, 4)
    ]
    assert coarse[0] > 5 * coarse[1] > 25 * coarse[2]


@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_units_change_nothing(problem, unit):
    expected = compute(Dense(), problem)
    found = compute(FiniteDifference(), problem, unit=unit)
    assert apart(found.grad, expected.grad) < 1e-7


def test_noise_is_the_same_in_all_solves(problem):
    """The hypergradient of the noisy problem that the key stands for."""
    descent = GradientDescent(optax.sgd(0.5), steps=300)
    psi, theta0, train, valid = problem
    key = jax.random.key(3)

    def fixed(theta, psi, x, y, *, key):
        return inner(theta, psi, x, y, key=jax.random.key(9))

    expected = compute(Dense(), problem, lambda *args: fixed(*args, key=None))
    found = compute(FiniteDifference(), problem, fixed, descent, key=key)
    assert apart(found.grad, expected.grad) < 1e-3


def test_a_loss_without_a_second_derivative(problem):
    """A custom_vjp whose rule is constant to those who differentiate it."""

    @jax.custom_vjp
    def square(a):
        return a**2

    def forward(a):
        return a**2, a

    def backward(a, u):
        return (2 * jax.lax.stop_gradient(a) * u,)

    square.defvjp(forward, backward)

    def loss(theta, psi, x, y):
        fit = square(x @ theta["w"] + theta["b"] - y).mean()
        return fit + (jnp.exp(psi) * theta["w"] ** 2).sum() + 0.05 * theta["b"] ** 2

    def plain(theta, psi, x, y):
        fit = ((x @ theta["w"] + theta["b"] - y) ** 2).mean()
        return fit + (jnp.exp(psi) * theta["w"] ** 2).sum() + 0.05 * theta["b"] ** 2

    expected = compute(Dense(), problem, plain)
    found = compute(FiniteDifference(), problem, loss, GradientDescent(optax.sgd(0.1), steps=3000))
    assert apart(found.grad, expected.grad) < 1e-6


def test_compiled_and_mapped(problem):
    psi, theta0, train, valid = problem
    run = implicit_grad(
        outer, inner, solver=Newton(Dense(), steps=12), inverse_hvp=FiniteDifference(),
        throw="ignore",
    )  # fmt: skip

    def grad(psi):
        return run(psi, theta0, inner_args=train, outer_args=valid)

    expected = grad(psi)
    np.testing.assert_allclose(jax.jit(grad)(psi), expected, rtol=1e-7)
    several = jnp.stack([psi, psi + 0.5])
    np.testing.assert_allclose(jax.vmap(grad)(several)[0], expected, rtol=1e-7)
    with pytest.raises(ValueError, match="FiniteDifference has no derivative of its own"):
        jax.jacfwd(grad)(psi)
    with pytest.raises(ValueError, match="FiniteDifference has no derivative of its own"):
        jax.grad(lambda psi: grad(psi).sum())(psi)


def test_in_float32():
    psi, target = jnp.array([1.0, 2.0]), jnp.array([0.5, -1.0])
    run = hypergradient(
        lambda theta, psi: jnp.sum((theta - target) ** 2),
        lambda theta, psi: jnp.sum((theta - psi) ** 2 * jnp.array([1.0, 100.0])),
        solver=Newton(),
        inverse_hvp=FiniteDifference(),
    )
    found = run(psi, jnp.zeros(2))
    np.testing.assert_allclose(found.grad, 2 * (psi - target), rtol=5e-3)


def test_an_outer_loss_at_its_minimum_has_no_gradient(x64):
    run = hypergradient(
        lambda theta, psi: jnp.sum((theta - 1) ** 2),
        lambda theta, psi: jnp.sum((theta - psi) ** 2),
        solver=Newton(),
        inverse_hvp=FiniteDifference(),
        throw="ignore",
    )
    found = run(jnp.ones(2), jnp.zeros(2))
    np.testing.assert_array_equal(found.implicit, jnp.zeros(2))


@pytest.mark.parametrize("order", range(1, 7))
def test_a_stencil_is_exact_for_polynomials(order):
    offsets, weights = stencil(order)
    for power in range(order + 1):
        total = sum(w * j**power for j, w in zip(offsets, weights, strict=True))
        assert total == pytest.approx(float(power == 1), abs=1e-9)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: FiniteDifference(0), "order=0 is no order of a difference: give 1 or more."),
        (lambda: FiniteDifference(step=2.0), "step=2.0 is no small part of theta: give 1e-3"),
        (lambda: FiniteDifference(damping=0.1), "FiniteDifference has no Hessian that could be"),
        (
            lambda: argmin(inner, solver=Newton(), inverse_hvp=FiniteDifference()),
            "inverse_hvp=FiniteDifference",
        ),
        (
            lambda: hypergradient(
                outer, Root(lambda theta, psi: theta - psi), solver=Newton(),
                inverse_hvp=FiniteDifference(),
            ),
            "adds the outer loss to an inner loss, and inner is a Root: pass Dense",
        ),
    ],
)  # fmt: skip
def test_mistakes_are_one_sentence(make, sentence, unchecked):
    with pytest.raises(ValueError, match=sentence):
        make()
