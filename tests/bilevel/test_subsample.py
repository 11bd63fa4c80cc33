"""Backpropagation through some rows: values, unbiasedness, memory."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from bilevel import hypergradient, subsample_backward
from bilevel.inverse_hvp import CG
from bilevel.solvers import Newton

ROWS = 20
RNG = np.random.default_rng(0)


@pytest.fixture
def problem(x64):
    x, y = jnp.asarray(RNG.normal(size=(ROWS, 5))), jnp.asarray(RNG.normal(size=(ROWS, 3)))
    params = {
        "in": jnp.asarray(RNG.normal(size=(5, 4))),
        "out": jnp.asarray(RNG.normal(size=(4, 3))),
    }
    return params, x, y


def network(params, x):
    return jnp.tanh(x @ params["in"]) @ params["out"]


def loss(rows, y):
    """Not a sum over rows: the cotangent of each depends on all."""
    return jnp.sum((rows - y) ** 2) * jnp.exp(0.01 * jnp.sum(rows))


def mean_is(samples, exact):
    """The mean over keys is `exact` within the standard error of its norm."""
    deviation = np.std(samples, axis=0) / np.sqrt(len(samples))
    off = np.linalg.norm(np.mean(samples, axis=0) - exact)
    assert off < 3 * np.linalg.norm(deviation)
    assert np.linalg.norm(deviation) < 0.1 * np.linalg.norm(exact)  # or it would prove nothing


@pytest.mark.parametrize("size", [2, 8])  # 10 % and 40 % of the rows
def test_gradients_and_hessian_vector_products_are_unbiased(size, problem):
    params, x, y = problem
    tangent = jax.tree.map(lambda leaf: jnp.cos(leaf), params)
    sampled = subsample_backward(network, size, microbatch=6)

    def gradients(fn):
        def value(params, x):
            return loss(fn(params, x), y)

        by_both = ravel_pytree(jax.grad(value, argnums=(0, 1))(params, x))[0]
        product = jax.jvp(lambda p: jax.grad(value)(p, x), (params,), (tangent,))[1]
        return by_both, ravel_pytree(product)[0]

    exact = gradients(network)
    one = jax.jit(jax.vmap(lambda key: gradients(lambda p, x: sampled(p, x, key=key))))
    samples = one(jax.random.split(jax.random.key(0), 3000))
    for found, expected in zip(samples, exact, strict=True):
        mean_is(np.asarray(found), np.asarray(expected))


@pytest.mark.parametrize("microbatch", [None, 5, 6, 100])
def test_values_are_those_of_the_function(microbatch, problem, getkey):
    params, x, _ = problem
    sampled = subsample_backward(network, 3, microbatch)
    for call in (sampled, eqx.filter_jit(sampled)):
        np.testing.assert_allclose(call(params, x, key=getkey()), network(params, x), rtol=1e-12)


@pytest.mark.parametrize("size", [ROWS, 1000])
def test_all_rows_give_the_exact_gradient(size, problem, getkey, close):
    params, x, y = problem
    sampled = subsample_backward(network, size)
    found = jax.grad(lambda p: loss(sampled(p, x, key=getkey()), y))(params)
    close(found, jax.grad(lambda p: loss(network(p, x), y))(params), 1e-12)


def test_rows_that_were_not_sampled_have_no_gradient(problem, getkey):
    params, x, y = problem
    sampled = subsample_backward(network, 3)
    grad = jax.grad(lambda x: loss(sampled(params, x, key=jax.random.key(0)), y))(x)
    exact = jax.grad(lambda x: loss(network(params, x), y))(x)
    chosen = np.flatnonzero(np.any(np.asarray(grad) != 0, axis=1))
    assert len(chosen) == 3
    np.testing.assert_allclose(grad[chosen], exact[chosen] * ROWS / 3, rtol=1e-10)


def test_what_the_function_closes_over_has_a_gradient(problem, close):
    params, x, y = problem

    def value(params, wrap):
        return loss(wrap(lambda p, x: jnp.tanh(x @ p) @ params["out"])(params["in"], x), y)

    def sampled(fn):
        return lambda p, x: subsample_backward(fn, ROWS, 7)(p, x, key=jax.random.key(0))

    close(jax.grad(value)(params, sampled), jax.grad(value)(params, lambda fn: fn), 1e-12)


def test_trees_of_rows_and_modules(x64, getkey, close):
    model = eqx.nn.MLP(3, 2, 4, 1, activation=jnp.tanh, key=getkey())
    x = {"a": jnp.ones((6, 2)), "b": jnp.arange(6.0)[:, None], "name": "rows"}

    def rows(model, x):
        return {"out": jax.vmap(model)(jnp.concatenate([x["a"], x["b"]], axis=1))}

    sampled = subsample_backward(rows, 6, 4)
    grads = [
        eqx.filter_grad(lambda m, f=f: jnp.sum(f(m, x)["out"] ** 2))(model)
        for f in (rows, lambda m, x: sampled(m, x, key=getkey()))
    ]
    close(*(eqx.filter(g, eqx.is_array) for g in grads), 1e-12)


@pytest.mark.parametrize("rederive", [False, True])
def test_it_stands_in_an_inner_loss(rederive, problem, getkey, close):
    """Both Hessian-vector products and the mixed derivative go through its own rule."""
    params, x, y = problem

    def grad(fn):
        def inner(theta, psi):
            rows = fn({"in": psi["in"], "out": theta}, x)
            return 0.5 * jnp.mean((rows - y) ** 2) + 0.5 * jnp.sum(theta**2)

        inverse = CG(rederive=rederive)
        compute = hypergradient(
            lambda t, p: jnp.sum(t**2), inner, solver=Newton(inverse), inverse_hvp=inverse
        )
        return compute(params, params["out"]).grad

    sampled = subsample_backward(network, ROWS, 6)
    close(grad(lambda p, x: sampled(p, x, key=getkey())), grad(network), 1e-9)


def test_memory_is_at_most_half_where_activations_dominate():
    """A convolution network on 400 images; temporaries of the compiled reverse pass."""
    x = jnp.ones((400, 16, 16, 3))
    kernels = [jnp.ones((3, 3, 3, 16)), *(jnp.ones((3, 3, 16, 16)) for _ in range(3))]

    def rows(kernels, x):
        for kernel in kernels:
            x = jnp.tanh(jax.lax.conv_general_dilated(
                x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            ))  # fmt: skip
        return jnp.mean(x, axis=(1, 2))

    def memory(fn):
        grad = jax.grad(lambda kernels, x: jnp.sum(fn(kernels, x) ** 2))
        return jax.jit(grad).lower(kernels, x).compile().memory_analysis().temp_size_in_bytes

    sampled = subsample_backward(rows, 40, microbatch=40)
    assert memory(lambda k, x: sampled(k, x, key=jax.random.key(0))) < 0.5 * memory(rows)


@pytest.mark.parametrize(
    "call, match",
    [
        (lambda: subsample_backward(network, 0), "size=0 leaves no row"),
        (lambda: subsample_backward(network, 1, 0), "microbatch=0 leaves no row"),
        (
            lambda: subsample_backward(lambda w, x: jnp.sum(x * w), 2)(
                jnp.ones(()), jnp.ones(4), key=jax.random.key(0)
            ),
            r"fn returned an array of shape \(\) for \d rows of x: it must be row-wise",
        ),
        (
            lambda: subsample_backward(network, 2)(
                {}, (jnp.ones((2, 1)), jnp.ones((3, 1))), key=jax.random.key(0)
            ),
            "needs the same number of rows",
        ),
    ],
)
def test_bad_input(call, match, unchecked):
    with pytest.raises(ValueError, match=match):
        call()
