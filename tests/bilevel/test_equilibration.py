"""Units of theta: what they are, what they save, and when `minimize` takes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel import Result, hypergradient, minimize
from bilevel._units import PAYS, SLOW, Units
from bilevel.inverse_hvp import CG, Equilibration
from bilevel.solvers import NewtonCG


def badly_scaled(size=60):
    """A matrix with condition number 1e8, nearly all of it by the units of its rows."""
    keys = jax.random.split(jax.random.key(0), 2)
    mixed = jax.random.normal(keys[0], (size, size)) / size
    units = jnp.exp(jnp.linspace(-4.5, 4.5, size))
    return units[:, None] * (jnp.eye(size) + mixed @ mixed.T) * units[None, :]


@pytest.mark.parametrize("unit", [1e-30, 1.0, 1e30])
def test_a_preconditioned_solve_is_exact_and_shorter(x64, unit):
    matrix, g = unit * badly_scaled(), jnp.ones(60)
    plain = CG(max_steps=2000)(lambda v: matrix @ v, g)
    short = CG(max_steps=2000, preconditioner=Equilibration())(lambda v: matrix @ v, g)
    np.testing.assert_allclose(short.v, np.linalg.solve(matrix, g), rtol=1e-6)
    assert 5 * int(short.steps) < int(plain.steps)


def test_row_norms_are_those_of_the_matrix(x64):
    """Up to a factor for all, and the spread of a mean over samples."""
    matrix = badly_scaled()
    scaling = Equilibration(samples=4000).prepare(lambda v: matrix @ v, jnp.ones(60), None)
    ratio = np.asarray(scaling.scale) / np.linalg.norm(matrix, axis=1)
    np.testing.assert_allclose(ratio, ratio[0], rtol=0.1)


def test_a_row_of_zeros_and_a_tree_of_two_types():
    def hvp(v):
        return {"wide": 3 * v["wide"], "none": 0 * v["none"]}

    g = {"wide": jnp.ones(3), "none": jnp.zeros(2)}
    solved = CG(preconditioner=Equilibration())(hvp, g)
    np.testing.assert_allclose(solved.v["wide"], 1 / 3, rtol=1e-6)
    assert not solved.v["none"].any()


def test_rows_of_any_size_beside_one_another():
    """As where penalties go to infinity; in float32 the squares of such norms do not exist."""
    penalties = jnp.exp(jnp.linspace(-40.0, 80.0, 30))
    x = jax.random.normal(jax.random.key(0), (60, 30))

    solved = CG(preconditioner=Equilibration())(
        lambda v: x.T @ (x @ v) + penalties * v, jnp.ones(30)
    )
    hessian = np.asarray(x, float).T @ np.asarray(x, float) + np.diag(np.asarray(penalties, float))
    np.testing.assert_allclose(solved.v, np.linalg.solve(hessian, np.ones(30)), rtol=2e-3)


def test_units_of_two_types_and_of_a_row_of_zeros_are_in_range():
    def hvp(v):
        return {"half": v["half"], "small": 1e-30 * v["small"], "none": 0 * v["none"]}

    g = {"half": jnp.ones(2, jnp.float16), "small": jnp.ones(20), "none": jnp.ones(1)}
    scale = Equilibration().prepare(hvp, g, None).scale
    assert all(np.isfinite(leaf).all() and (leaf > 0).all() for leaf in scale.values())
    assert scale["none"] == 1
    three = jnp.asarray([1e-30, 1.0, 1e30])
    found = Equilibration().prepare(lambda v: three * v, jnp.ones(3), None).scale
    np.testing.assert_allclose(found, three, rtol=1e-6)


def test_under_vmap_jit_and_in_float16():
    def solve(scale):
        hessian = jnp.diag(jnp.asarray([1.0, 10.0, 100.0], jnp.float16))
        return CG(preconditioner=Equilibration())(lambda v: scale * (hessian @ v), g).v

    g = jnp.ones(3, jnp.float16)
    found = jax.jit(jax.vmap(solve))(jnp.asarray([1.0, 2.0], jnp.float16))
    np.testing.assert_allclose(found, [[1, 0.1, 0.01], [0.5, 0.05, 0.005]], rtol=1e-2)


def test_no_samples_are_refused():
    with pytest.raises(ValueError, match="samples=0 asks for no product"):
        Equilibration(samples=0)


def test_a_newton_step_in_units_is_nearer(x64):
    matrix = badly_scaled()

    def left(preconditioner):
        solver = NewtonCG(max_steps=3, preconditioner=preconditioner)
        theta, _ = solver(lambda theta: theta @ matrix @ theta / 2 - theta.sum(), jnp.zeros(60))
        return float(jnp.linalg.norm(matrix @ theta - 1))

    assert left(Equilibration()) < 1e-3 * left(None)


def test_units_are_taken_where_they_pay_alone():
    units = Units()
    units.follow(SLOW)
    assert not units.pay
    units.follow(2 * SLOW)
    assert units.pay
    units.follow(int(2 * SLOW * PAYS))
    assert units.pay
    units.follow(2 * SLOW)
    assert not units.pay
    units.follow(3 * SLOW)  # they did not pay there
    assert not units.pay
    units.follow(5 * SLOW)
    assert units.pay


def test_many_penalties_of_very_different_sizes(x64, monkeypatch):
    """minimize comes upon the units, and what it has in the end is what a dense solve has."""
    keys = jax.random.split(jax.random.key(1), 3)
    sizes = jnp.exp(jnp.linspace(-4, 4, 80))
    x = jax.random.normal(keys[0], (120, 80)) * sizes[None, :]
    truth = jnp.where(jnp.arange(80) % 2 == 0, 1.0, 0.0) / sizes
    y = x @ truth + 0.5 * jax.random.normal(keys[1], (120,))

    def inner(theta, psi):
        return jnp.mean((x[:60] @ theta - y[:60]) ** 2) + jnp.sum(jnp.exp(psi) * theta**2)

    def outer(theta, psi):
        return jnp.mean((x[60:] @ theta - y[60:]) ** 2)

    taken = []
    follow = Units.follow

    def watched(self, steps):
        follow(self, steps)
        taken.append(self.pay)

    monkeypatch.setattr(Units, "follow", watched)
    bounds = (-8.0, 8.0)
    found = minimize(outer, inner, jnp.zeros(80), jnp.zeros(80), bounds=bounds, throw="ignore")
    assert any(taken)

    def reduced(psi):
        curvature = 2 * x[:60].T @ x[:60] / 60 + 2 * jnp.diag(jnp.exp(psi))
        return outer(jnp.linalg.solve(curvature, 2 * x[:60].T @ y[:60] / 60), psi)

    np.testing.assert_allclose(found.value, reduced(found.psi), rtol=1e-6)
    assert found.result == Result.outer_max_steps_reached  # and not of no descent, or vague
    assert found.value < 0.2 * reduced(jnp.zeros(80))
    h = hypergradient(
        outer, inner, solver=NewtonCG(), inverse_hvp=CG(preconditioner=Equilibration())
    )(found.psi, found.theta)
    np.testing.assert_allclose(h.grad, jax.grad(reduced)(found.psi), atol=1e-6)
