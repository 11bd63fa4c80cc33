"""Tracers that functions hold, wherever they hold them."""

import functools
import gc
import weakref

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.core import Tracer

from bilevel import argmin, hypergradient, implicit_grad
from bilevel._closures import detached, holds_tracers, put_back, take_tracers
from bilevel.inverse_hvp import Dense
from bilevel.solvers import Newton, ProjectedGradient


class Module(eqx.Module):
    function: object
    factor: object = None

    def scaled(self, x):
        return self.factor * x


def default(s):
    def function(x, factor=s):
        return factor * x

    return function


def keyword(s):
    def function(x, *, factor=s):
        return factor * x

    return function


def nested(s):
    one = lambda x: s * x  # noqa: E731
    return lambda x: one(x)


def recursive(s):
    def function(x, depth=1):
        return s * x if depth == 0 else function(x, depth - 1)

    return function


HOLDERS = {
    "closure": lambda s: lambda x: s * x,
    "default": default,
    "keyword default": keyword,
    "closure of a closure": nested,
    "itself": recursive,
    "partial": lambda s: functools.partial(jnp.multiply, s),
    "keyword of a partial": lambda s: functools.partial(lambda x, by: by * x, by=s),
    "method": lambda s: Module(None, s).scaled,
    "function in a module": lambda s: Module(lambda x: s * x).function,
    "list in a closure": lambda s: (lambda held: lambda x: held[0]["s"] * x)([{"s": s}]),
}


@pytest.mark.parametrize("name", HOLDERS)
def test_they_are_found_and_put_back(name):
    make = HOLDERS[name]
    assert not holds_tracers(make(jnp.asarray(2.0)))

    def of(s):
        function = make(s)
        assert holds_tracers(function)
        skeleton, held = take_tracers(function)
        assert len(held) == 1 and isinstance(held[0], Tracer) and not holds_tracers(skeleton)
        again = put_back(skeleton, [3 * held[0]])
        return again(1.0), function(1.0), detached(function)(1.0)

    np.testing.assert_allclose(jax.jit(of)(2.0), [6, 2, 2])
    np.testing.assert_allclose(jax.jacrev(lambda s: jnp.stack(of(s)))(2.0), [3, 1, 0])


def test_what_holds_none_is_the_very_same():
    """So that compiled programs are found again."""
    function = HOLDERS["list in a closure"](jnp.asarray(2.0))
    tree = {"a": function, "b": [functools.partial(function, 1.0), Module(function)]}
    skeleton, held = take_tracers(tree)
    assert skeleton is tree and not held
    assert detached(tree) is tree and put_back(tree, []) is tree


@pytest.mark.parametrize("name", ["closure", "keyword default", "keyword of a partial", "method"])
def test_derivatives_through_an_inner_loss_that_holds_one(name, x64):
    """theta* = s psi."""

    def value(s):
        times = HOLDERS[name](s)
        fit = argmin(lambda t, p: jnp.sum((t - times(p)) ** 2), solver=Newton(Dense()))
        return jnp.sum(fit(jnp.array([1.0, 2.0]), jnp.zeros(2)) ** 2)

    np.testing.assert_allclose(jax.grad(value)(jnp.asarray(3.0)), 2 * 3 * 5, rtol=1e-8)


@pytest.mark.parametrize("name", ["default", "function in a module"])
def test_derivatives_through_a_projection_that_holds_one(name, x64):
    """A box as large as s, both bounds reached."""

    def value(s):
        times = HOLDERS[name](s)
        box = ProjectedGradient(lambda t, p: jnp.clip(t, -times(p), times(p)), 0.3)
        fit = argmin(lambda t, p: jnp.sum((t - 9) ** 2), solver=box, inverse_hvp=Dense())
        return jnp.sum(fit(jnp.asarray(2.0), jnp.zeros(2)))

    np.testing.assert_allclose(jax.grad(value)(jnp.asarray(0.5)), 4, rtol=1e-6)


def test_an_outer_loss_that_holds_one(x64):
    def gradient(s):
        return implicit_grad(
            lambda t, p: s**2 * jnp.sum(t), lambda t, p: jnp.sum((t - p) ** 2), solver=Newton()
        )(jnp.asarray(1.0), jnp.zeros(2))

    for derivative in (jax.grad, jax.jacfwd):
        np.testing.assert_allclose(derivative(gradient)(jnp.asarray(3.0)), 12, rtol=1e-8)


def test_a_loss_whose_closure_changed_is_traced_anew(x64):
    """One function object, another array in its cell."""
    shift = jnp.asarray(1.0)

    def inner(theta, psi):
        return jnp.sum((theta - psi * shift) ** 2)

    fit = argmin(inner, solver=Newton())
    grad = jax.grad(lambda p: jnp.sum(fit(p, jnp.zeros(2))))
    np.testing.assert_allclose(grad(jnp.asarray(1.0)), 2, rtol=1e-8)
    shift = jnp.asarray(5.0)
    np.testing.assert_allclose(grad(jnp.asarray(1.0)), 10, rtol=1e-8)


def test_what_a_loss_closes_over_is_not_kept():
    """Programs are kept from call to call, and not the data that they were for."""

    def watched():
        data = jnp.arange(1000.0).reshape(250, 4) % 7
        loss = lambda t, p: jnp.mean((data @ t - 1) ** 2) + jnp.exp(p) * t @ t  # noqa: E731
        hypergradient(lambda t, p: t @ t, loss, solver=Newton())(jnp.asarray(0.0), jnp.zeros(4))
        return weakref.ref(data)

    reference = watched()
    gc.collect()
    assert reference() is None
