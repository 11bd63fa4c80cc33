"""theta of any real kind: low and mixed types, Python floats, empty leaves; complex is refused."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bilevel import argmin, check_hypergradient, hypergradient, implicit_grad, unrolled_grad
from bilevel.inverse_hvp import CG, SGD, Dense, Lineax, Neumann, Nystrom
from bilevel.solvers import LBFGS, GradientDescent, Newton, ProximalGradient

BF16, F16, F32, F64 = jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64
DESCENT = GradientDescent(optax.sgd(0.2), 50)


def stays(loss, theta0):
    return theta0


def inner(theta, psi):
    return sum(jnp.sum((leaf.astype(psi.dtype) - psi) ** 2) for leaf in jax.tree.leaves(theta))


def outer(theta, psi):
    return sum(jnp.sum(leaf.astype(psi.dtype) ** 2) for leaf in jax.tree.leaves(theta))


SOLVERS = {
    "Newton": Newton(Dense()),
    "descent": DESCENT,
    "LBFGS": LBFGS(),
    "proximal gradient": ProximalGradient(lambda t, p, s: t, 0.2),
}
INVERSES = {
    "CG": CG(),
    "Dense": Dense(),
    "Lineax": Lineax(),
    "Neumann": Neumann(50, step_size=0.2),
    "Nystrom": Nystrom(rank=5),
    "SGD": SGD(optax.sgd(0.2), 50),
}
MIXTURES = {
    "bf16 + f32": (BF16, F32, 3e-2),
    "f16 + f64": (F16, F64, 4e-3),
    "bf16": (BF16, BF16, 3e-2),
}
KINDS = [(name, "bf16 + f32") for name in (*SOLVERS, *INVERSES)]
KINDS += [(name, mixture) for name in ("LBFGS", "Dense") for mixture in ("f16 + f64", "bf16")]


@pytest.mark.parametrize("name, mixture", KINDS)
def test_leaves_of_unlike_types(name, mixture, x64):
    """Each leaf keeps its type, and the gradient is right to that of the lowest."""
    low, high, tolerance = MIXTURES[mixture]
    theta0 = {"a": jnp.zeros(3, low), "b": jnp.zeros((2, 1), high)}
    if name in INVERSES:
        theta0 = jax.tree.map(jnp.ones_like, theta0)
    compute = hypergradient(
        outer, inner, solver=SOLVERS.get(name, stays), inverse_hvp=INVERSES.get(name, Dense())
    )
    h = compute(jnp.ones((), high), theta0)
    np.testing.assert_allclose(np.asarray(h.grad, float), 10, rtol=tolerance)
    assert h.grad.dtype == high
    for tree in (h.theta, h.adjoint.v):
        assert (tree["a"].dtype, tree["b"].dtype) == (low, high)


def test_argmin_and_unrolling_of_mixed_types(x64):
    theta0 = {"a": jnp.zeros(3, F32), "b": jnp.zeros(2, F64)}
    fit = argmin(inner, solver=Newton(), forward_mode=True)
    psi = jnp.ones((), F64)
    for derivative in (jax.grad, jax.jacfwd):
        found = derivative(lambda p: outer(fit(p, theta0), p))(psi)
        np.testing.assert_allclose(found, 10, rtol=1e-6)
    compute = unrolled_grad(outer, inner, solver=DESCENT)
    np.testing.assert_allclose(compute(psi, theta0), 10, rtol=1e-5)


def test_low_types_are_inverted_in_float32():
    """The Hessian diag(1, 256) and a sum of 1 + 1/256, which bfloat16 cannot hold."""
    scale = jnp.array([1.0, 256.0], BF16)
    inverse = Dense()(lambda v: scale * v, jnp.ones(2, BF16))
    np.testing.assert_allclose(np.asarray(inverse.v, float), [1, 1 / 256], rtol=1e-2)
    assert inverse.v.dtype == BF16 and inverse.residual.dtype == F32


PSIS = {
    "Python floats": {"a": 2.0, "b": (3.0, 1)},
    "one Python float": {"a": jnp.float32(2), "b": (3.0, 1)},
    "NumPy": {"a": np.float32(2), "b": (np.asarray(3, np.float32), 1)},
}


@pytest.mark.parametrize("name", PSIS)
def test_python_numbers_are_numbers(name):
    def inner(theta, psi):
        return (theta["t"] - psi["a"]) ** 2 + (theta["s"] - psi["b"][0]) ** 2

    def outer(theta, psi):
        return theta["t"] ** 2 + theta["s"] ** 2

    for theta0 in ({"t": 0.0, "s": 0.0}, {"t": jnp.zeros(()), "s": 0.0}):
        h = hypergradient(outer, inner, solver=Newton())(PSIS[name], theta0)
        np.testing.assert_allclose([h.grad["a"], h.grad["b"][0]], [4, 6], rtol=1e-5)
        assert h.grad["b"][1] is None  # an integer is none to differentiate
        found = argmin(inner, solver=Newton())(PSIS[name], theta0)
        np.testing.assert_allclose([found["t"], found["s"]], [2, 3], rtol=1e-5)


def test_weakly_typed_psi_under_jit():
    compute = implicit_grad(outer, inner, solver=Newton())
    np.testing.assert_allclose(jax.jit(compute)(1.0, jnp.zeros(2)), 4, rtol=1e-5)
    np.testing.assert_allclose(compute(1.0, 0.0), 2, rtol=1e-5)


@pytest.mark.parametrize(
    "solver", [Newton(), Newton(Dense()), LBFGS(), DESCENT], ids=["CG", "Dense", "LBFGS", "descent"]
)
def test_empty_leaves(solver):
    theta0 = {"a": jnp.zeros((0, 3)), "b": jnp.zeros(2), "c": jnp.zeros(0)}
    psi = {"p": jnp.ones(()), "nothing": jnp.zeros(0)}
    h = hypergradient(
        lambda t, p: outer(t, p["p"]), lambda t, p: inner(t, p["p"]), solver=solver,
        inverse_hvp=Dense() if solver is DESCENT else None,
    )(psi, theta0)  # fmt: skip
    np.testing.assert_allclose(h.grad["p"], 4, rtol=1e-4)
    assert h.theta["a"].shape == (0, 3) and h.grad["nothing"].shape == (0,)


class TestComplex:
    """A Hessian of complex parameters is no linear map: refused at once, in one sentence."""

    theta0 = (jnp.zeros(2), jnp.zeros(2, jnp.complex64))

    def inner(self, theta, psi):
        return jnp.sum(jnp.abs(theta[1] - psi) ** 2) + jnp.sum(theta[0] ** 2)

    def refuses(self, call):
        with pytest.raises(ValueError, match="theta0 holds complex .*real and imag") as raised:
            call()
        assert "\n" not in str(raised.value)

    @pytest.mark.parametrize("name", [*SOLVERS, "a callable"])
    def test_theta(self, name):
        psi = jnp.ones(())
        settings = {"solver": SOLVERS.get(name, stays), "inverse_hvp": Dense()}
        self.refuses(lambda: implicit_grad(outer, self.inner, **settings)(psi, self.theta0))
        self.refuses(lambda: argmin(self.inner, **settings)(psi, self.theta0))
        self.refuses(lambda: jax.jit(argmin(self.inner, **settings))(psi, self.theta0))
        self.refuses(lambda: check_hypergradient(outer, self.inner, **settings)(psi, self.theta0))

    def test_others(self):
        self.refuses(lambda: unrolled_grad(outer, self.inner, solver=DESCENT)(1.0, self.theta0))
        self.refuses(lambda: argmin(self.inner, solver=Newton())(1.0, (jnp.zeros(2), 1j)))

    def test_its_parts_are_right(self):
        """The way that the sentence names."""

        def split(theta, psi):
            joined, target = jax.lax.complex(*theta), jax.lax.complex(psi, 2 * psi)
            return jnp.sum(jnp.real((joined - target) * jnp.conj(joined - target)))

        compute = implicit_grad(
            lambda t, p: jnp.sum(t[0] + 3 * t[1]), split, solver=Newton(), inverse_hvp=Dense()
        )
        grad = compute(jnp.ones(()), (jnp.zeros(2), jnp.zeros(2)))
        np.testing.assert_allclose(grad, 2 * (1 + 3 * 2), rtol=1e-5)

    def test_inside_of_the_losses_it_is_welcome(self):
        def spectrum(theta, psi):
            wave = jnp.fft.fft(theta - psi)
            return jnp.sum(jnp.real(wave) ** 2 + jnp.imag(wave) ** 2)

        grad = implicit_grad(lambda t, p: jnp.sum(t**2), spectrum, solver=LBFGS())
        np.testing.assert_allclose(grad(jnp.ones(4), jnp.zeros(4)), 2, rtol=1e-4)


class Scaled(eqx.Module):
    weight: jax.Array
    factor: float


class Regularised(eqx.Module):
    layer: eqx.nn.Linear
    drop: eqx.nn.Dropout
    norm: eqx.nn.LayerNorm


class TestFloatsInModules:
    def test_ones_own_warn(self):
        """They stay as they are, which may be a parameter forgotten."""
        compute = argmin(lambda t, p: t.factor * jnp.sum((t.weight - p) ** 2), solver=Newton())
        with pytest.warns(UserWarning, match=r"theta0 holds Python floats in a module.*factor"):
            theta = compute(jnp.ones(2), Scaled(jnp.zeros(2), 0.5))
        np.testing.assert_allclose(theta.weight, 1, rtol=1e-5)
        assert theta.factor == 0.5
        with pytest.warns(UserWarning, match=r"psi holds Python floats in a module.*jax arrays"):
            argmin(lambda t, p: jnp.sum((t - p.weight) ** 2), solver=Newton())(
                {"model": Scaled(jnp.ones(2), 0.5)}["model"], jnp.zeros(2)
            )

    def test_those_of_equinox_do_not(self):
        """Its Dropout's rate and LayerNorm's eps are settings."""
        key = jax.random.key(0)
        model = Regularised(eqx.nn.Linear(2, 2, key=key), eqx.nn.Dropout(0.5), eqx.nn.LayerNorm(2))
        target = jnp.ones(2)

        def fit(theta, psi):
            out = theta.drop(theta.layer(target), inference=True)
            weights = eqx.filter(theta, eqx.is_inexact_array)
            return jnp.sum((out - psi) ** 2) + sum(jnp.sum(w**2) for w in jax.tree.leaves(weights))

        found = argmin(fit, solver=Newton(Dense()))(jnp.ones(2), model)
        assert found.drop.p == 0.5 and found.norm.eps == model.norm.eps


@pytest.mark.parametrize("optimiser", ["zoom", "backtracking"])
@pytest.mark.parametrize("solver", ["LBFGS", "GradientDescent"])
def test_a_line_search_on_float32_where_float64_is_enabled(x64, solver, optimiser):
    """Its step lengths are in float64; theta, and what the loss is called with, are not."""
    search = optax.scale_by_zoom_linesearch(10, initial_guess_strategy="one")
    if optimiser == "backtracking":
        search = optax.scale_by_backtracking_linesearch(10)
    descent = GradientDescent(optax.lbfgs(linesearch=search), steps=25)
    target, start = jnp.array([1.5, 2.0], jnp.float32), jnp.zeros(2, jnp.float32)
    h = hypergradient(
        lambda theta, psi: jnp.sum(jnp.sin(theta)),
        lambda theta, psi: jnp.sum(jnp.cosh(theta - psi)) + jnp.sum((theta - psi) ** 2),
        solver=LBFGS() if solver == "LBFGS" else descent,
    )(target, start)
    assert h.theta.dtype == h.grad.dtype == jnp.float32
    np.testing.assert_allclose(h.grad, np.cos(target), atol=1e-4)
