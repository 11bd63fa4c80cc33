"""Rows a few at a time, dispatched, unrolled and in the loops of an accelerator."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from bilevel_distillation._running._parts import accumulate, in_parts


@pytest.fixture(params=["cpu", "gpu"])
def backend(request, monkeypatch):
    """How parts are run on that backend, here."""
    monkeypatch.setattr(jax, "default_backend", lambda: request.param)
    return request.param


def rows(n):
    return {"x": jnp.arange(3.0 * n).reshape(n, 3), "w": jnp.arange(float(n)), "none": None}


def row_wise(part):
    return {"y": jnp.sin(part["x"]) * part["w"][:, None], "none": part["none"]}


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("size", [1, 3, 4, 5, 12, None])
def test_in_parts_is_the_function(backend, size, remat):
    found = jax.jit(lambda r: in_parts(row_wise, r, size, remat=remat))(rows(12))
    np.testing.assert_allclose(found["y"], row_wise(rows(12))["y"], rtol=1e-6)


@pytest.mark.parametrize("size", [3, 5, None])
@pytest.mark.parametrize("traced", [False, True])
def test_accumulate_adds_the_first_and_joins_the_second(backend, size, traced):
    def of(part):
        x, w = part
        return (jnp.sum(w), jnp.sum(x, axis=0)), x * w[:, None]

    def call(r):
        return accumulate(of, r, size)

    given = rows(12)["x"], rows(12)["w"]
    (a, b), c = (jax.jit(call) if traced else call)(given)
    np.testing.assert_allclose(a, given[1].sum())
    np.testing.assert_allclose(b, given[0].sum(0))
    np.testing.assert_allclose(c, given[0] * given[1][:, None])


def test_an_accelerator_loops_and_keeps_one_part_in_reverse(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    x = jnp.ones((64, 8))

    def loss(w, remat):
        def of(part):
            for _ in range(6):
                part = jnp.tanh(part @ w)
            return part

        return jnp.sum(in_parts(of, x, 4, remat=remat))

    sizes = {}
    for remat in (False, True):
        gradient = jax.jit(jax.grad(lambda w: loss(w, remat)))  # noqa: B023
        assert "while" in gradient.lower(jnp.eye(8)).as_text()
        analysis = gradient.lower(jnp.eye(8)).compile().memory_analysis()
        sizes[remat] = analysis.temp_size_in_bytes
    assert sizes[True] < sizes[False] / 2


def test_parts_of_rows_that_are_spread_hold_some_of_each_device(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    seen = []

    def of(part):
        jax.debug.callback(lambda p: seen.append(np.asarray(p)), part)
        return part

    found = jax.jit(lambda r: in_parts(of, r, 4))(jnp.arange(12))
    jax.effects_barrier()
    np.testing.assert_array_equal(found, np.arange(12))
    assert sorted(tuple(part) for part in seen) == [(0, 3, 6, 9), (1, 4, 7, 10), (2, 5, 8, 11)]


def test_a_cpu_does_not_loop():
    text = jax.jit(lambda r: in_parts(lambda p: lax.sin(p), r, 4)).lower(jnp.ones(12)).as_text()
    assert "while" not in text
