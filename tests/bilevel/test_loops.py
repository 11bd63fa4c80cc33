"""Loops: the right way is picked, and all ways give the same."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from bilevel import hessian
from bilevel._loops import MOST_UNROLLED, choose, iterate
from bilevel.inverse_hvp import CG
from bilevel.solvers import GradientDescent

WAYS = ["auto", "loop", "unroll", "dispatch"]


def convolve(x, kernel):
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@jax.custom_jvp
def guarded(x, kernel):
    return convolve(x, kernel)


@guarded.defjvp
def _(primals, tangents):
    (x, kernel), (dx, dkernel) = primals, tangents
    return guarded(x, kernel), convolve(dx, kernel) + convolve(x, dkernel)


@jax.custom_vjp
def reversed_only(x, kernel):
    return convolve(x, kernel)


reversed_only.defvjp(lambda x, k: (convolve(x, k), None), lambda _, c: (c, None))


def plain(operands, x):
    return convolve(x, operands)


def in_jit(operands, x):
    return jax.jit(convolve)(x, operands)


def in_custom_jvp(operands, x):
    return jax.jit(guarded)(x, operands)


def in_custom_vjp(operands, x):
    return reversed_only(x, operands)


def in_cond(operands, x):
    return lax.cond(
        x[0, 0, 0, 0] > 0, lambda x: x, lambda x: jax.checkpoint(convolve)(x, operands), x
    )


def in_scan(operands, x):
    return lax.scan(lambda x, _: (convolve(x, operands), None), x, length=2)[0]


def in_its_derivative(operands, x):
    return jax.grad(lambda x: jnp.sum(convolve(x, operands) ** 2))(x)


def products(operands, x):
    return jnp.tanh(x @ operands[0, 0])


HOLDS_ONE = [plain, in_jit, in_custom_jvp, in_custom_vjp, in_cond, in_scan, in_its_derivative]
KERNEL, IMAGE = 0.1 * jnp.ones((3, 3, 1, 1)), jnp.ones((1, 4, 4, 1))


@pytest.mark.parametrize("step", HOLDS_ONE)
def test_a_convolution_is_found_on_a_cpu(step):
    assert choose(step, KERNEL, IMAGE, 5, "auto") == "dispatch"

    @jax.jit
    def traced(x):
        assert choose(step, KERNEL, x, MOST_UNROLLED, "auto") == "unroll"
        with pytest.warns(UserWarning, match="call without jax.jit, or allow at most"):
            assert choose(step, KERNEL, x, MOST_UNROLLED + 1, "auto") == "loop"
        return x

    traced(IMAGE)


def test_everything_else_is_looped(monkeypatch):
    assert choose(products, KERNEL, IMAGE, 5, "auto") == "loop"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert choose(plain, KERNEL, IMAGE, 5, "auto") == "loop"


def test_a_setting_is_obeyed():
    for way in ("loop", "unroll", "dispatch"):
        assert choose(plain, KERNEL, IMAGE, 500, way) == way


class Halving(eqx.Module):
    x: jax.Array
    count: jax.Array
    key: jax.Array
    name: str


def halve(operands, state):
    return Halving(operands * state.x, state.count + 1, state.key, state.name)


def small(operands, state):
    return jnp.max(jnp.abs(state.x)) < 0.1


def never(operands, state):
    return False


@pytest.mark.parametrize("done", [small, never])
def test_all_ways_give_the_same(done):
    start = Halving(jnp.ones(3), jnp.asarray(0), jax.random.key(0), "state")
    half = jnp.asarray(0.5)
    expected = iterate(halve, done, half, start, 5, "dispatch")
    assert expected.count == (5 if done is never else 4)
    for way in WAYS:
        for run in (iterate, eqx.filter_jit(iterate)):
            found = run(halve, done, half, start, 5, way)
            assert found.name == "state" and found.count == expected.count
            np.testing.assert_allclose(found.x, expected.x, rtol=1e-6)
            assert jnp.all(jax.random.key_data(found.key) == jax.random.key_data(expected.key))


@pytest.mark.parametrize("way", WAYS)
def test_vmap_stops_each_on_its_own(way):
    def run(factor):
        start = Halving(jnp.ones(3), jnp.asarray(0), jax.random.key(0), "state")
        return iterate(halve, small, factor, start, 6, way).count

    np.testing.assert_array_equal(jax.vmap(run)(jnp.array([0.5, 0.01, 0.9])), [4, 1, 6])


def network_loss(theta):
    hidden = jax.nn.softplus(convolve(jnp.ones((2, 4, 4, 1)), theta["kernel"]))
    return jnp.mean((hidden.sum((1, 2)) @ theta["head"] - 1) ** 2) + 0.1 * sum(
        jnp.sum(leaf**2) for leaf in theta.values()
    )


THETA = {"kernel": 0.1 * jnp.ones((3, 3, 1, 2)), "head": 0.1 * jnp.ones((2, 1))}


@pytest.mark.parametrize("jit", [False, True])
def test_solvers_of_a_convolutional_network(jit, close):
    def everything(way):
        theta, record = GradientDescent(optax.adam(0.01), 3, loop=way)(network_loss, THETA)
        cg = CG(max_steps=3, damping=20.0, loop=way)
        hvp = hessian(network_loss, THETA)
        return theta, record.losses, cg(hvp, THETA).v

    run = eqx.filter_jit(everything) if jit else everything
    expected = run("loop")
    for way in ("unroll",) if jit else ("unroll", "dispatch"):
        close(run(way), expected, 1e-4)
