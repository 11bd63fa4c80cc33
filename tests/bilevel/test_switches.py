"""jax's own switches: NaN checks, no jit, leak checks, and shard_map."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, PartitionSpec

from bilevel import argmin, check_hypergradient, implicit_grad, unrolled_grad
from bilevel.inverse_hvp import CG, SGD, Dense, Lineax, Neumann, Nystrom
from bilevel.solvers import LBFGS, GradientDescent, Newton, ProximalGradient


def inner(theta, psi):
    return jnp.sum((theta - psi) ** 2)


def outer(theta, psi):
    return jnp.sum(theta**2)


def stays(loss, theta0):
    return theta0


DESCENT = GradientDescent(optax.sgd(0.1), 40)
SOLVERS = {
    "Newton": Newton(),
    "descent": DESCENT,
    "descent to a tolerance": GradientDescent(optax.adam(0.3), 300, tol=1e-3),
    "LBFGS": LBFGS(),
    "proximal gradient": ProximalGradient(lambda t, p, s: t, 0.1),
}
INVERSES = {
    "CG": CG(),
    "Dense": Dense(),
    "Lineax": Lineax(),
    "Neumann": Neumann(60, step_size=0.2),
    "Nystrom": Nystrom(rank=2),
    "SGD": SGD(optax.sgd(0.2), 60, rtol=1e-5),
}
PSI, START = jnp.asarray(1.0), jnp.zeros(2)


def of(name):
    solver, inverse = SOLVERS.get(name, stays), INVERSES.get(name, Dense())
    start = START if name in SOLVERS else START + PSI
    return implicit_grad(outer, inner, solver=solver, inverse_hvp=inverse), start


@pytest.mark.parametrize("name", [*SOLVERS, *INVERSES])
def test_nan_checks_find_none_of_our_own(name):
    compute, start = of(name)
    with jax.debug_nans(True):
        np.testing.assert_allclose(compute(PSI, start), 4, rtol=2e-2)
        if name in ("LBFGS", "CG"):
            np.testing.assert_allclose(jax.jit(compute)(PSI, start), 4, rtol=2e-2)


def test_nan_checks_elsewhere():
    with jax.debug_nans(True):
        np.testing.assert_allclose(
            jax.grad(lambda p: outer(argmin(inner, solver=LBFGS())(p, START), p))(PSI), 4, rtol=1e-3
        )
        compute = unrolled_grad(outer, inner, solver=DESCENT)
        np.testing.assert_allclose(compute(PSI, START), 4, rtol=1e-2)
        assert check_hypergradient(outer, inner, solver=Newton(), directions=1)(PSI, START).passed
        # Where all is 0 there is much to divide by.
        grad = implicit_grad(outer, inner, solver=LBFGS())(jnp.zeros(2), jnp.zeros(2))
        np.testing.assert_array_equal(grad, 0)


def test_nan_checks_still_find_a_users():
    bad = implicit_grad(outer, lambda t, p: jnp.sum(jnp.sqrt(t - 1) + p), solver=DESCENT)
    with jax.debug_nans(True), pytest.raises(FloatingPointError):
        bad(PSI, START)


@pytest.mark.parametrize("name", ["Newton", "LBFGS", "proximal gradient", "CG", "SGD"])
def test_without_jit(name):
    compute, start = of(name)
    if name == "proximal gradient":
        solver = ProximalGradient(lambda t, p, s: t, 0.4, max_steps=30)
        compute = implicit_grad(outer, inner, solver=solver, inverse_hvp=Dense())
    if name == "SGD":
        inverse = SGD(optax.sgd(0.4), 5, rtol=1e-2)
        compute = implicit_grad(outer, inner, solver=stays, inverse_hvp=inverse)
    with jax.disable_jit():
        np.testing.assert_allclose(compute(PSI, start), 4, rtol=1e-2)


def test_argmin_without_jit():
    with jax.disable_jit():
        fit = argmin(inner, solver=Newton(Dense()), inverse_hvp=Dense())
        np.testing.assert_allclose(jax.grad(lambda p: outer(fit(p, START), p))(PSI), 4, rtol=1e-5)
        with pytest.raises(RuntimeError, match="away from a minimum"):
            fit = argmin(inner, solver=stays, inverse_hvp=Dense())
            jax.grad(lambda p: jnp.sum((fit(p, START) - 2) ** 2))(PSI)


@pytest.mark.parametrize("name", ["Newton", "LBFGS", "descent"])
def test_nothing_leaks(name):
    """Losses that close over a traced number are where a tracer would."""

    def gradient(shift):
        loss = lambda t, p: jnp.sum((t - p * shift) ** 2)  # noqa: E731
        settings = {"solver": SOLVERS[name], "inverse_hvp": Dense()}
        fit = argmin(loss, **settings)
        through = jax.grad(lambda p: jnp.sum(fit(p, START) ** 2))(PSI)
        return through, implicit_grad(outer, loss, **settings)(PSI, START)

    with jax.checking_leaks():
        np.testing.assert_allclose(jax.jit(gradient)(jnp.asarray(2.0)), 16, rtol=1e-3)


class TestShardMap:
    """Independent problems, one or more a device, with jax's checks of what varies."""

    mesh = property(lambda self: jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,)))
    settings = {
        "Newton": (Newton(), CG()),
        "Dense": (Newton(Dense()), Dense()),
        "descent": (GradientDescent(optax.sgd(0.2), 60), Neumann(60, step_size=0.2)),
    }

    def run(self, f, spec, out, *args, **kwargs):
        mapped = jax.shard_map(f, mesh=self.mesh, in_specs=spec, out_specs=out, **kwargs)
        return jax.jit(mapped)(*args)

    @pytest.mark.parametrize("name", settings)
    @pytest.mark.parametrize("own", [True, False], ids=["theta0 a device's own", "replicated"])
    def test_independent_problems(self, name, own):
        solver, inverse = self.settings[name]
        compute = implicit_grad(outer, inner, solver=solver, inverse_hvp=inverse)

        def f(psis):
            start = jax.lax.pcast(START, "d", to="varying") if own else START
            return jax.vmap(lambda p: compute(p, start))(psis)

        spec = PartitionSpec("d")
        found = self.run(f, spec, spec, jnp.arange(4.0))
        np.testing.assert_allclose(found, [0, 4, 8, 12], rtol=1e-3, atol=1e-5)

    def test_a_failure_on_one_device_is_raised(self):
        compute = implicit_grad(
            outer, lambda t, p: jnp.sum(p * t**2 + t), solver=Newton(Dense()), inverse_hvp=CG()
        )
        spec = PartitionSpec("d")
        with pytest.raises(RuntimeError, match="non-positive curvature|no nearer|away from a"):
            jax.block_until_ready(
                self.run(lambda p: compute(p[0], START)[None], spec, spec, jnp.array([1.0, -1.0]))
            )

    def test_a_loss_summed_over_devices(self):
        """One problem whose data are spread: psi and theta are the same on all."""

        def f(psi, x):
            loss = lambda t, p: jax.lax.psum(jnp.sum((t - p * x) ** 2), "d")  # noqa: E731
            fit = argmin(loss, solver=Newton())
            return jax.grad(lambda p: fit(p, jnp.zeros(())) ** 2)(psi)

        x = jnp.arange(4.0)  # theta* = 1.5 psi
        specs = (PartitionSpec(), PartitionSpec("d"))
        found = self.run(f, specs, PartitionSpec(), jnp.asarray(1.0), x)
        np.testing.assert_allclose(found, 2 * 1.5**2, rtol=1e-5)

    def test_line_searches_of_optax_want_no_checks(self):
        """What optax does inside is refused by jax: one sentence says what to switch off."""
        compute = implicit_grad(outer, inner, solver=LBFGS())
        spec = PartitionSpec("d")
        with pytest.raises(ValueError, match="LBFGS runs code of another.*check_vma=False") as told:
            self.run(lambda p: compute(p, START), spec, spec, jnp.ones(4))
        assert "\n" not in str(told.value)
        found = self.run(lambda p: compute(p, START), spec, spec, jnp.ones(4), check_vma=False)
        np.testing.assert_allclose(found, 2, rtol=1e-4)
