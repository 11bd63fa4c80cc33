"""What the line search on psi is told: slopes that are those of the path, at bounds too."""

import jax
import jax.numpy as jnp
import numpy as np

from bilevel._outer import slope_of_path


def test_the_slope_is_that_of_the_clipped_path(x64):
    """Against a difference of values along it; some coordinates have come to a bound."""
    keys = jax.random.split(jax.random.key(0), 3)
    flat, step, centre = (jax.random.normal(key, (200,)) for key in keys)
    lower, upper = jnp.full(200, -0.5), jnp.full(200, 0.75)

    def value(flat):
        return jnp.sum((flat - centre) ** 4)

    for ends in ((lower, upper), (None, None)):
        start = jnp.clip(flat, *ends)

        def path(share, start=start, ends=ends):
            return jnp.clip(start + share * step, *ends)

        there = path(0.3)
        held = (there == -0.5) | (there == 0.75)
        assert bool(held.any()) == (ends[0] is not None)
        found = slope_of_path(jax.grad(value)(there), step, there, *ends)
        expected = (value(path(0.3 + 1e-6)) - value(path(0.3 - 1e-6))) / 2e-6
        np.testing.assert_allclose(found, expected, rtol=1e-6)
