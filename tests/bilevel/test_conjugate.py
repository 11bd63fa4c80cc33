"""Conjugate gradients step by step: the estimate of the error, and spaces that are reused."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel import Result, hypergradient
from bilevel.inverse_hvp import CG, ConjugateGradients, KrylovSpace
from bilevel.solvers import Newton

SIZE = 40


@pytest.fixture
def system(x64):
    """A positive definite matrix of condition number 100, and two right-hand sides; v is a tree."""
    keys = jax.random.split(jax.random.key(0), 2)
    basis, _ = jnp.linalg.qr(jax.random.normal(keys[0], (SIZE, SIZE)))
    matrix = (basis * jnp.logspace(-1, 1, SIZE)[None, :]) @ basis.T
    first, second = list(jax.random.normal(keys[1], (2, SIZE)))

    def hvp(v):
        image = matrix @ jnp.concatenate([v["a"].ravel(), v["b"]])
        return tree(image)

    return matrix, hvp, first, second


def tree(vector):
    return {"a": vector[:6].reshape(2, 3), "b": vector[6:]}


def flat(v):
    return jnp.concatenate([v["a"].ravel(), v["b"]])


def energy(matrix, x):
    return float(jnp.sqrt(x @ matrix @ x))


@pytest.mark.parametrize(
    ("loop", "rtol"),
    [("loop", 1e-1), ("loop", 1e-3), ("loop", 1e-6), ("unroll", 0.2), ("dispatch", 1e-3)],
)
def test_the_estimated_error_is_near_the_true_one(system, rtol, loop):
    matrix, hvp, b, _ = system
    x = jnp.linalg.solve(matrix, b)
    steps = 12 if loop == "unroll" else 100
    found = CG(rtol=rtol, norm="operator", loop=loop, max_steps=steps)(hvp, tree(b))
    assert found.result == Result.successful
    assert energy(matrix, flat(found.v) - x) < 3 * rtol * energy(matrix, x)


def test_the_estimate_that_stays_above_is_said(system):
    _, hvp, b, _ = system
    found = CG(rtol=1e-6, norm="operator", max_steps=5)(hvp, tree(b))
    assert found.result == Result.max_steps_reached
    short = CG(rtol=1e-6, norm="operator", max_steps=5, truncated=True)(hvp, tree(b))
    assert short.result == Result.approximate


def test_a_warm_start_counts_in_the_estimate(system):
    matrix, hvp, b, _ = system
    x = jnp.linalg.solve(matrix, b)
    inverse = CG(rtol=1e-4, norm="operator")
    near = tree(x + 1e-3 * jnp.cos(jnp.arange(SIZE)))
    warm, cold = inverse(hvp, tree(b), v0=near), inverse(hvp, tree(b))
    assert int(warm.steps) < int(cold.steps)
    assert energy(matrix, flat(warm.v) - x) < 1e-3 * energy(matrix, x)


def test_a_space_saves_steps_for_another_right_hand_side(system):
    matrix, hvp, first, second = system
    inverse = CG(keep=30)
    earlier = inverse(hvp, tree(first))
    assert earlier.space is not None and earlier.space.inverse.shape == (30, 30)
    alone = inverse(hvp, tree(second))
    for v0 in (None, tree(jnp.ones(SIZE))):
        after = CG(space=earlier.space)(hvp, tree(second), v0=v0)
        assert after.result == Result.successful
        np.testing.assert_allclose(flat(after.v), jnp.linalg.solve(matrix, second), rtol=1e-6)
        assert int(after.steps) < 0.7 * int(alone.steps)
    again = CG(space=earlier.space, max_steps=60)(hvp, tree(first))
    assert int(again.steps) < 0.7 * int(earlier.steps)


@pytest.mark.parametrize("norm", ["residual", "operator"])
def test_a_space_that_holds_the_solution_wants_no_start(norm, x64):
    root = jax.random.normal(jax.random.key(0), (6, 6))
    matrix = root @ root.T + jnp.eye(6)
    first, second, start = jax.random.normal(jax.random.key(1), (3, 6))
    space = CG(keep=6)(lambda v: matrix @ v, first).space
    found = CG(space=space, norm=norm)(lambda v: matrix @ v, second, v0=start)
    np.testing.assert_allclose(found.v, jnp.linalg.solve(matrix, second), rtol=1e-9)
    assert found.result == Result.successful


def test_a_space_of_another_operator_is_never_believed(system):
    _, hvp, first, second = system
    space = CG(keep=20)(hvp, tree(first)).space

    def other(v):
        return jax.tree.map(lambda a, b: 3 * a + b, hvp(v), v)

    for verify in (True, False):
        found = CG(space=space, verify=verify)(other, tree(second))
        assert found.result == Result.max_steps_reached
        gap = jax.tree.map(jnp.subtract, other(found.v), tree(second))
        true = jnp.linalg.norm(flat(gap)) / jnp.linalg.norm(second)
        assert float(found.residual) == pytest.approx(float(true), rel=1e-6)


def test_as_a_preconditioner_it_is_right_for_an_operator_near_by(system):
    matrix, hvp, first, second = system
    space = CG(keep=SIZE)(hvp, tree(first)).space
    near = matrix + 1e-3 * jnp.diag(jnp.linspace(0, 1, SIZE))

    def other(v):
        return tree(near @ flat(v))

    alone = CG()(other, tree(second))
    helped = CG(preconditioner=space)(other, tree(second))
    assert helped.result == Result.successful
    np.testing.assert_allclose(flat(helped.v), jnp.linalg.solve(near, second), rtol=1e-6)
    assert int(helped.steps) < 0.6 * int(alone.steps)


def test_the_preconditioner_is_symmetric_and_positive_definite(system):
    _, hvp, first, _ = system
    space = CG(keep=7)(hvp, tree(first)).space
    dense = jax.vmap(lambda v: flat(space(tree(v))))(jnp.eye(SIZE))
    np.testing.assert_allclose(dense, dense.T, atol=1e-10)
    assert float(jnp.linalg.eigvalsh(dense)[0]) > 0
    # On the space it is the inverse.
    directions = jax.vmap(flat)(space.directions)
    images = jax.vmap(flat)(space.images)
    np.testing.assert_allclose(images @ dense, directions, atol=1e-9)


def test_directions_that_are_doubled_count_once(system):
    _, hvp, first, second = system
    space = CG(keep=8)(hvp, tree(first)).space
    doubled = KrylovSpace.make(
        *(
            jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf[:3]]), one)
            for one in (space.directions, space.images)
        )
    )
    found, expected = doubled.project(tree(second))[0], space.project(tree(second))[0]
    np.testing.assert_allclose(flat(found), flat(expected), atol=1e-9)


def test_many_right_hand_sides_keep_a_space_each(system):
    _, hvp, first, second = system
    both = jax.tree.map(lambda *each: jnp.stack(each), tree(first), tree(second))
    found = CG(keep=5).many(hvp, both)
    assert found.space is not None and found.space.inverse.shape == (2, 5, 5)


def test_a_record_hands_its_space_on(x64):
    def inner(theta, psi):
        return jnp.sum((theta - psi) ** 2 * jnp.arange(1.0, 7.0))

    def outer(theta, psi):
        return jnp.sum(theta**3)

    compute = eqx.filter_jit(hypergradient(outer, inner, solver=Newton(), inverse_hvp=CG(keep=4)))
    found = compute(jnp.arange(1.0, 7.0), jnp.zeros(6))
    assert found.adjoint.space is not None and found.adjoint.space.directions.shape == (4, 6)


def test_a_loop_of_ones_own_gets_at_what_comes_on_the_way(system):
    matrix, _, b, _ = system
    steps = ConjugateGradients(rtol=1e-10, max_steps=200)
    state, lengths = steps.init(b), []
    while not state.done:
        before = state.x
        state = steps.update(state, matrix @ steps.argument(state))
        lengths.append(energy(matrix, state.x - before) ** 2)
    x = jnp.linalg.solve(matrix, b)
    np.testing.assert_allclose(state.x, x, rtol=1e-6)
    assert sum(lengths) == pytest.approx(energy(matrix, x) ** 2, rel=1e-6)
    assert steps.finish(state)[1] == Result.successful


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"norm": "energy"}, "norm='energy' is not known: choose 'residual' or 'operator'."),
        ({"keep": -1}, "keep=-1 is negative: give a number of directions, or 0."),
    ],
)
def test_bad_settings(settings, sentence, unchecked):
    with pytest.raises(ValueError, match=sentence):
        CG(**settings)
