"""Hypergradients against dense algebra, finite differences and closed forms."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bilevel import Result, hypergradient, implicit_grad, implicit_value_and_grad
from bilevel.inverse_hvp import CG, SGD, Dense
from bilevel.solvers import GradientDescent, Newton


def scipy_like(loss, theta0):
    """A solver that knows nothing of bilevel: plain descent in NumPy."""
    theta, gradient = theta0, jax.jit(jax.grad(loss))
    for _ in range(300):
        theta = jax.tree.map(
            lambda t, g: np.asarray(t) - 0.3 * np.asarray(g), theta, gradient(theta)
        )
    return theta


METHODS = {
    "newton-cg": (Newton(steps=6), CG()),
    "newton-dense": (Newton(Dense(), steps=6), Dense()),
    "descent-sgd": (GradientDescent(optax.sgd(0.3), 400), SGD(optax.sgd(0.3), 400)),
    "momentum-cg-rederived": (GradientDescent(optax.sgd(0.1, 0.9), 800), CG(rederive=True)),
}


@pytest.mark.parametrize("method", METHODS)
def test_equals_the_dense_solve(method, problem, close):
    solver, inverse_hvp = METHODS[method]
    compute = hypergradient(problem.outer, problem.inner, solver=solver, inverse_hvp=inverse_hvp)
    h = compute(problem.psi, problem.theta0)
    close(h.grad, problem.gradient, 1e-8)
    close(h.grad, jax.tree.map(jnp.add, h.direct, h.implicit))
    close(h.value, problem.value(problem.psi), 1e-8)
    assert h.adjoint.residual < 1e-8
    assert h.adjoint.result == Result.successful
    assert h.inner.gradient_norm < 1e-6
    assert h.inner.losses[-1] <= h.inner.losses[0]


def test_equals_finite_differences(problem):
    direction = jax.tree.map(
        lambda p: jnp.cos(jnp.arange(1.0, p.size + 1)).reshape(p.shape), problem.psi
    )
    grad = implicit_grad(problem.outer, problem.inner, solver=Newton(steps=6))(
        problem.psi, problem.theta0
    )
    along = sum(
        jnp.vdot(g, d) for g, d in zip(*map(jax.tree.leaves, (grad, direction)), strict=True)
    )
    np.testing.assert_allclose(along, problem.finite_difference(direction), rtol=1e-7)


def test_ridge_penalty_in_closed_form(x64):
    rng = np.random.default_rng(0)
    x, y, x_val, y_val = (jnp.asarray(rng.normal(size=s)) for s in ((9, 4), 9, (5, 4), 5))

    def inner(theta, penalty):
        return 0.5 * jnp.sum((x @ theta - y) ** 2) + 0.5 * penalty * jnp.sum(theta**2)

    def outer(theta, penalty):
        return 0.5 * jnp.sum((x_val @ theta - y_val) ** 2)

    penalty, system = 0.7, x.T @ x + 0.7 * jnp.eye(4)
    weights = jnp.linalg.solve(system, x.T @ y)
    expected = -(x_val.T @ (x_val @ weights - y_val)) @ jnp.linalg.solve(system, weights)
    value, grad = implicit_value_and_grad(outer, inner, solver=Newton())(penalty, jnp.zeros(4))
    np.testing.assert_allclose(grad, expected, rtol=1e-8)
    np.testing.assert_allclose(value, outer(weights, penalty), rtol=1e-10)


def test_a_foreign_solver(ridge_problem, close):
    h = hypergradient(ridge_problem.outer, ridge_problem.inner, solver=scipy_like)(
        ridge_problem.psi, ridge_problem.theta0
    )
    close(h.grad, ridge_problem.gradient, 1e-6)
    assert h.inner.losses.shape == (1,)


def test_forms_of_the_answer(ridge_problem, close):
    def outer(theta, psi, shift):
        return ridge_problem.outer(theta, psi) + shift, {"theta": theta}

    def inner(theta, psi, weight):
        return weight * ridge_problem.inner(theta, psi)

    call = (ridge_problem.psi, ridge_problem.theta0)
    kwargs = {"outer_args": (jnp.asarray(2.0),), "inner_args": (np.asarray(3.0),)}
    h = hypergradient(outer, inner, solver=Newton(), has_aux=True)(*call, **kwargs)
    expected = ridge_problem.gradient
    close(h.grad, expected)
    close(h.aux["theta"], h.theta)
    np.testing.assert_allclose(h.value, 2 + ridge_problem.value(ridge_problem.psi))
    settings = {"solver": Newton(), "has_aux": True}
    grad, aux = implicit_grad(outer, inner, **settings)(*call, **kwargs)
    close((grad, aux), (h.grad, h.aux))
    both = implicit_value_and_grad(outer, inner, **settings)(*call, **kwargs)
    close(both, ((h.value, h.aux), h.grad))


class Model(eqx.Module):
    weight: jax.Array
    bias: jax.Array | None
    activation: object
    name: str = eqx.field(static=True)
    steps: int = 3


def test_modules_with_static_leaves(ridge_problem, close):
    theta0 = Model(ridge_problem.theta0, None, jnp.tanh, "theta")
    psi = Model(ridge_problem.psi, None, jnp.tanh, "psi")
    h = hypergradient(
        lambda t, p: ridge_problem.outer(t.weight, p.weight),
        lambda t, p: ridge_problem.inner(t.weight, p.weight) + 0 * t.steps,
        solver=Newton(),
    )(psi, theta0)
    close(h.grad.weight, ridge_problem.gradient)
    assert h.theta.name == "theta" and h.theta.activation is jnp.tanh and h.theta.steps == 3
    assert h.grad.activation is None and h.grad.steps is None
    assert eqx.apply_updates(psi, h.grad).weight.shape == psi.weight.shape


def test_jit_vmap_and_closed_over_tracers(ridge_problem, close):
    compute = implicit_grad(ridge_problem.outer, ridge_problem.inner, solver=Newton())
    psis = jnp.stack([ridge_problem.psi, 0.5 * ridge_problem.psi])
    starts = jnp.stack([ridge_problem.theta0, ridge_problem.theta0 + 1])
    expected = jnp.stack([compute(p, ridge_problem.theta0) for p in psis])
    close(jax.jit(jax.vmap(compute))(psis, starts), expected)
    close(jax.vmap(lambda p: compute(p, ridge_problem.theta0))(psis), expected)

    def closing_over(factor):
        return implicit_grad(
            lambda theta, psi: ridge_problem.outer(theta, factor * psi),
            lambda theta, psi: ridge_problem.inner(theta, factor * psi),
            solver=Newton(),
        )(ridge_problem.psi, ridge_problem.theta0)

    close(jax.vmap(closing_over)(jnp.array([1.0, 0.5])), expected * jnp.array([[1.0], [0.5]]))
    close(jax.jit(closing_over)(0.5), 0.5 * expected[1])


@pytest.mark.parametrize("loop", ["dispatch", "loop"])
def test_tracers_that_only_the_inner_loss_holds(loop, x64, close):
    def gradient(factor):
        return implicit_grad(
            lambda theta, psi: jnp.sum(theta**2),
            lambda theta, psi: jnp.sum(factor * (theta - psi) ** 2 + theta**2),
            solver=lambda loss, theta0: theta0,
            inverse_hvp=CG(max_steps=4, rederive=True, loop=loop),
            throw="ignore",  # theta0 is no minimum
        )(jnp.ones(2), jnp.ones(2))

    factor = jnp.array([1.0, 3.0])
    close(jax.vmap(gradient)(factor), jnp.stack([2 * f / (f + 1) * jnp.ones(2) for f in factor]))


def test_derivative_of_a_hypergradient_forwards(x64):
    def gradient(c):
        inner = lambda t, p: jnp.sum(c * (t - p) ** 2 + t**2)  # noqa: E731
        return hypergradient(lambda t, p: jnp.sum(t**2), inner, solver=Newton())(
            jnp.ones(()), jnp.zeros(())
        ).grad

    # theta* = c psi / (1 + c), so the hypergradient at psi = 1 is 2 c^2 / (1 + c)^2.
    np.testing.assert_allclose(jax.jacfwd(gradient)(3.0), 4 * 3 / 4**3, rtol=1e-8)


def test_sharded_arrays(x64, close):
    mesh = Mesh(np.array(jax.devices()), "rows")
    x = jnp.asarray(np.random.default_rng(0).normal(size=(16, 3)))
    sharded = jax.device_put(x, NamedSharding(mesh, PartitionSpec("rows")))

    def inner(theta, psi, x):
        return jnp.mean((x @ theta - psi) ** 2)

    compute = implicit_grad(lambda t, p: jnp.sum(t**3), inner, solver=Newton())
    expected = compute(jnp.ones(16), jnp.zeros(3), inner_args=(x,))
    psi = jax.device_put(jnp.ones(16), NamedSharding(mesh, PartitionSpec("rows")))
    for call in (compute, jax.jit(compute)):
        grad = call(psi, jnp.zeros(3), inner_args=(sharded,))
        close(grad, expected)
        assert len(jax.devices()) == len(grad.sharding.device_set) == 8


def test_a_second_call_compiles_nothing(compilations):
    traced = []

    def inner(theta, psi, x):
        traced.append(1)
        return jnp.mean((x @ theta - 1) ** 2) + psi * jnp.sum(theta**2)

    compute = hypergradient(
        lambda t, p: jnp.sum(t**2),
        inner,
        solver=GradientDescent(optax.adam(0.1), 3, loop="dispatch"),
        inverse_hvp=CG(loop="dispatch"),
        throw="ignore",
    )
    x = jnp.ones((4, 2)).at[:, 1].set(2.0)
    other = jnp.asarray(2.0), jnp.ones(2), x + 1
    first = compute(jnp.asarray(1.0), jnp.zeros(2), inner_args=(x,))
    _ = first.grad
    before, compiled = len(traced), compilations()
    assert before > 0 and compiled > 0
    second = compute(*other[:2], inner_args=other[2:])
    _ = second.grad
    assert compilations() == compiled
    assert len(traced) == 2 * before, "traced once a call"
    assert first.value != second.value


def test_warm_start(ridge_problem, close):
    compute = hypergradient(ridge_problem.outer, ridge_problem.inner, solver=Newton())
    cold = compute(ridge_problem.psi, ridge_problem.theta0)
    warm = compute(ridge_problem.psi, cold.theta, v0=cold.adjoint.v)
    assert cold.adjoint.steps >= 3 and warm.adjoint.steps == 0
    close(warm.grad, cold.grad, 1e-9)


def test_keys_make_the_inner_loss_stochastic(x64, getkey):
    """Noise of mean 0 in the Hessian and the gradient: the mean hypergradient is the exact one."""

    def inner(theta, psi, *, key):
        noise = 0.1 * jax.random.normal(key, (2,))
        return 0.5 * jnp.sum((1 + noise) * (theta - psi) ** 2)

    compute = implicit_grad(
        lambda t, p: 0.5 * jnp.sum(t**2),
        inner,
        solver=GradientDescent(optax.sgd(0.1), 150),
        inverse_hvp=SGD(optax.sgd(0.1), 150),
    )
    psi = jnp.array([1.0, 2.0])
    one = jax.jit(lambda key: compute(psi, jnp.zeros(2), key=key))
    grads = jax.vmap(one)(jax.random.split(getkey(), 64))
    np.testing.assert_allclose(jnp.mean(grads, axis=0), psi, atol=0.08)
    assert jnp.std(grads[:, 0]) > 0.01  # keys do reach the loss
    np.testing.assert_array_equal(one(jax.random.key(1)), one(jax.random.key(1)))


class TestThrow:
    """A failed solve raises, warns or is ignored, as the caller chose."""

    def compute(self, throw):
        matrix = jnp.diag(jnp.array([1.0, -1.0]))  # a saddle
        return hypergradient(
            lambda theta, psi: jnp.sum(theta),
            lambda theta, psi: 0.5 * theta @ matrix @ theta - theta @ psi,
            solver=lambda loss, theta0: theta0,
            throw=throw,
        )

    def test_raise(self):
        with pytest.raises(RuntimeError, match="non-positive curvature"):
            self.compute("raise")(jnp.ones(2), jnp.ones(2))

    def test_raise_under_jit(self):
        with pytest.raises(RuntimeError, match="non-positive curvature"):
            jax.block_until_ready(
                jax.jit(lambda p: self.compute("raise")(p, jnp.ones(2)).grad)(jnp.ones(2))
            )

    def test_warn(self):
        with pytest.warns(RuntimeWarning, match="non-positive curvature") as caught:
            self.compute("warn")(jnp.ones(2), jnp.ones(2))
        assert len(caught) == 1

    def test_warn_under_jit(self):
        with pytest.warns(RuntimeWarning, match="non-positive curvature"):
            jax.jit(lambda p: self.compute("warn")(p, jnp.ones(2)).grad)(jnp.ones(2))
            jax.effects_barrier()

    def test_ignore(self):
        h = self.compute("ignore")(jnp.ones(2), jnp.ones(2))
        assert h.adjoint.result == Result.indefinite
        assert jnp.all(jnp.isfinite(h.grad))

    def test_a_failed_inner_solve(self):
        compute = hypergradient(
            lambda t, p: jnp.sum(t), lambda t, p: jnp.sum((t - p) ** 2),
            solver=GradientDescent(optax.sgd(1e30), 4),
        )  # fmt: skip
        with pytest.raises(RuntimeError, match="learning rate of the inner solver"):
            compute(jnp.ones(2), jnp.zeros(2))

    def test_unknown(self, unchecked):
        with pytest.raises(ValueError, match="throw='loud' is not known: choose"):
            self.compute("loud")


class TestBadInput:
    """One sentence that names the argument, the value and the remedy."""

    def outer(self, theta, psi):
        return jnp.sum(theta**2)

    def inner(self, theta, psi):
        return jnp.sum((theta - psi) ** 2)

    def check(self, match, *, outer=None, inner=None, psi=None, theta0=None, v0=None, **settings):
        settings = {"solver": Newton()} | settings
        psi = jnp.ones(2) if psi is None else psi
        theta0 = jnp.zeros(2) if theta0 is None else theta0
        with pytest.raises(ValueError, match=match) as raised:
            hypergradient(outer or self.outer, inner or self.inner, **settings)(psi, theta0, v0=v0)
        assert "\n" not in str(raised.value)

    def test_psi_without_floats(self):
        self.check("psi holds no floating-point array", psi={"n": jnp.arange(2), "name": "rate"})

    def test_theta_without_floats(self):
        self.check("theta0 holds no floating-point array", theta0=jnp.arange(2))

    def test_inner_is_no_scalar(self):
        self.check(r"inner must return a scalar.*\(2,\).*mean", inner=lambda t, p: (t - p) ** 2)

    def test_inner_returns_a_tuple(self):
        self.check("inner must return a scalar.*tuple", inner=lambda t, p: (jnp.sum(t), 1))

    def test_outer_is_no_scalar(self):
        self.check(r"outer must return a scalar.*\(2,\).*mean", outer=lambda t, p: t**2)

    def test_outer_returns_aux_unasked(self):
        self.check("outer must return.*has_aux=True", outer=lambda t, p: (jnp.sum(t), 1))

    def test_solver_of_another_structure(self):
        self.check("the solver returned a theta of structure", solver=lambda loss, t: {"a": t})

    def test_solver_of_another_shape(self):
        self.check(
            r"the solver returned.*\(3,\).*form of theta0", solver=lambda loss, t: jnp.zeros(3)
        )

    def test_solver_is_none(self, unchecked):
        self.check("solver=3 is neither", solver=3)

    def test_v0_of_another_form(self):
        self.check("v0 is a v of structure", v0={"a": jnp.zeros(2)})
        self.check(r"v0 is a v of .*\(3,\)", v0=jnp.zeros(3))
