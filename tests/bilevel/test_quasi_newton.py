"""The quasi-Newton direction and the line search, each against what is known of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel._quasi_newton import Curvature, Point, direction, remember, search


def test_as_many_exact_steps_as_numbers_give_the_newton_step(x64):
    """Along conjugate directions, whatever was known before."""
    root = jax.random.normal(jax.random.key(0), (5, 5))
    hessian = root @ root.T + jnp.eye(5)
    x, curvature = jnp.ones(5), Curvature.empty(7, jnp.ones(5))
    free = jnp.ones(5, bool)
    for _ in range(5):
        gradient = hessian @ x
        step = direction(curvature, gradient, free)
        step = jnp.where(jnp.any(step != 0), step, -gradient)
        step = -(gradient @ step) / (step @ hessian @ step) * step  # exact
        curvature, kept = remember(curvature, step, hessian @ step)
        assert bool(kept)
        x = x + step
    np.testing.assert_allclose(x, 0, atol=1e-10)
    other = jax.random.normal(jax.random.key(1), (5,))
    np.testing.assert_allclose(
        direction(curvature, other, free), -jnp.linalg.solve(hessian, other), rtol=1e-6
    )


def test_a_pair_of_negative_curvature_is_not_kept():
    curvature = Curvature.empty(3, jnp.ones(2))
    curvature, kept = remember(curvature, jnp.ones(2), -jnp.ones(2))
    assert not bool(kept) and not np.any(np.asarray(curvature.steps))


def test_what_is_held_stays_and_does_not_count(x64):
    hessian = jnp.array([[2.0, 1.0], [1.0, 3.0]])
    curvature = Curvature.empty(3, jnp.ones(2))
    for step in jnp.eye(2):
        curvature, _ = remember(curvature, step, hessian @ step)
    found = direction(curvature, jnp.array([4.0, 5.0]), jnp.array([True, False]))
    np.testing.assert_allclose(found, [-2.0, 0.0])


LINES = {
    "a parabola far away": lambda x: (x - 50) ** 2,
    "a parabola near by": lambda x: (x - 1e-3) ** 2,
    "steep, then flat": lambda x: jnp.log1p((x - 30) ** 2),
    "two valleys": lambda x: jnp.cos(3 * x) + 0.1 * (x - 4) ** 2 + x * -0.3,
    "a wall": lambda x: jnp.where(x < 0.4, (x - 0.3) ** 2, jnp.nan),
}


@pytest.mark.parametrize("name", LINES)
def test_a_line_search_ends_where_wolfe_wants_it(x64, name):
    line = jax.value_and_grad(LINES[name])

    def at(share):
        value, slope = line(share)
        return Point(share, float(value), float(slope))

    first = at(0.0)
    if first.slope >= 0:
        first = at(0.1)
    first = Point(0.0, first.value, first.slope)
    found, count = search(at, first, 1.0, most=20)
    assert found is not None and count <= 12
    assert found.value <= first.value + 1e-4 * found.share * first.slope
    assert abs(found.slope) <= 0.9 * abs(first.slope)


def test_a_line_that_only_rises_has_no_point():
    found, count = search(lambda share: Point(share, 1.0 + share, 1.0), Point(0.0, 1.0, -1.0), 1.0)
    assert found is None and count <= 12


def test_among_equal_values_slopes_decide():
    def at(share):
        return Point(share, 1.0 + 1e-9 * np.sin(1e3 * share), share - 0.25, noise=1e-8)

    found, _ = search(at, Point(0.0, 1.0, -0.25), 1.0)
    assert found is not None and abs(found.slope) <= 0.9 * 0.25
