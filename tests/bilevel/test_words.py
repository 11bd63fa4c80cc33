"""What is printed and raised: ten lines, the sentence last, and which member failed."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bilevel import Result, argmin, hypergradient, implicit_grad
from bilevel.inverse_hvp import CG, Dense
from bilevel.solvers import GradientDescent, Newton


def inner(theta, psi):
    return jnp.sum(psi * (theta - psi) ** 2)


def outer(theta, psi):
    return jnp.sum(theta**2) + psi


PSI, START = jnp.asarray(2.0), jnp.zeros(2)


class TestPrint:
    def test_ten_lines(self):
        h = hypergradient(outer, inner, solver=Newton(Dense()))(PSI, START)
        lines = str(h).splitlines()
        assert len(lines) == 10
        table = {line[:19].strip(): line[19:].strip() for line in lines}
        assert float(table["value"]) == pytest.approx(10)
        assert float(table["gradient, norm"]) == pytest.approx(9, rel=1e-3)
        assert float(table["direct part"]) == pytest.approx(1, rel=1e-3)
        assert float(table["implicit part"]) == pytest.approx(8, rel=1e-3)
        assert table["theta"] == f"1 steps: {Result[Result.successful]}"
        assert table["adjoint"].endswith(f"steps: {Result[Result.successful]}")
        assert float(table["gradient norm"]) < 1e-3 and float(table["residual"].split()[0]) < 1e-5
        assert "relative to theta" in table["distance"] and "of the value" in table["change"]

    def test_a_failure_is_there_in_words(self):
        few = GradientDescent(optax.sgd(1e-3), 2)
        h = hypergradient(outer, inner, solver=few, throw="ignore")(PSI, START)
        assert f"2 steps: {Result[Result.not_stationary]}" in str(h)
        assert len(str(h).splitlines()) == 10
        # To first order theta is 2 away in each of two numbers, at which the value is 4 theta.
        change = re.search(r"change +([-+.\de]+)", str(h))
        assert float(change.group(1)) == pytest.approx(float(h.change), rel=0.1)

    def test_where_there_are_no_numbers_yet(self):
        printed = []

        def run(psi):
            h = hypergradient(outer, inner, solver=Newton(Dense()))(psi, START)
            printed.append(str(h))
            return h.grad

        jax.vmap(run)(jnp.array([1.0, 2.0]))
        jax.jit(run)(PSI)
        assert all(text.startswith("Hypergradient(") for text in printed) and len(printed) == 2


def saddle(theta, psi):
    """Of curvature psi: no minimum where that is negative."""
    return 0.5 * psi * jnp.sum(theta**2) - jnp.sum(theta)


def stays(loss, theta0):
    return theta0


SADDLE = Result[Result.indefinite]


class TestMembers:
    """Under vmap the message names those that failed."""

    settings = {"solver": stays, "inverse_hvp": CG()}

    def raises(self, run, *args, match):
        with pytest.raises(RuntimeError) as raised:
            jax.block_until_ready(run(*args))
        text = str(raised.value)
        assert SADDLE in text
        assert match in text, text[-200:]
        return text

    def grad(self, psi, **settings):
        return implicit_grad(lambda t, p: jnp.sum(t), saddle, **(self.settings | settings))(
            psi, jnp.ones(2)
        )

    def test_eager(self):
        psis = jnp.array([1.0, -1.0, 1.0, -2.0])
        text = self.raises(jax.vmap(self.grad), psis, match="(Under vmap: member 1, 3 of 4.)")
        assert "\n" not in text

    def test_compiled(self):
        psis = jnp.array([1.0, 1.0, -2.0])
        text = self.raises(jax.jit(jax.vmap(self.grad)), psis, match="member 2 of 3.)")
        assert text.rstrip().endswith("member 2 of 3.)")

    def test_two_dimensions(self):
        psis = jnp.array([[1.0, -1.0], [1.0, 1.0]])
        for run in (jax.vmap(jax.vmap(self.grad)), jax.jit(jax.vmap(jax.vmap(self.grad)))):
            self.raises(run, psis, match="member (0, 1) of 4.)")

    def test_many(self):
        psis = -jnp.ones(12)
        self.raises(jax.vmap(self.grad), psis, match="member 0, 1, 2, 3, 4, 5, 6, 7, ... of 12.)")

    def test_a_warning_names_them_too(self):
        for run in (jax.vmap, lambda f: jax.jit(jax.vmap(f))):
            with pytest.warns(RuntimeWarning, match="non-positive curvature"):
                grads = run(lambda p: self.grad(p, throw="warn"))(jnp.array([1.0, -1.0]))
                jax.block_until_ready(grads)
                jax.effects_barrier()

    def test_through_argmin(self):
        fit = argmin(saddle, throw="raise", **self.settings)
        grads = jax.vmap(jax.grad(lambda p: jnp.sum(fit(p, jnp.ones(2)))))
        for run in (grads, jax.jit(grads)):
            self.raises(run, jnp.array([1.0, -1.0]), match="member 1 of 2.)")

    def test_none_failed(self):
        solved = implicit_grad(lambda t, p: jnp.sum(t), saddle, solver=Newton(Dense()))
        psis = jnp.array([1.0, 2.0])
        grads = jax.vmap(lambda p: solved(p, jnp.ones(2)))(psis)
        np.testing.assert_allclose(grads, -2 / psis**2, rtol=1e-4)


class TestUnderJit:
    """The sentence is the end of the message, whatever jax says before it."""

    def compute(self, psi):
        return implicit_grad(lambda t, p: jnp.sum(t), saddle, solver=stays, inverse_hvp=CG())(
            psi, jnp.ones(2)
        )

    def last(self, run):
        with pytest.raises(RuntimeError) as raised:
            jax.block_until_ready(run(jnp.asarray(-1.0)))
        return str(raised.value).rstrip()

    def test_jit(self):
        assert self.last(jax.jit(self.compute)).endswith(SADDLE)

    def test_filter_jit_and_no_jit(self):
        assert self.last(eqx.filter_jit(self.compute)).endswith(SADDLE)
        assert self.last(self.compute) == SADDLE

    def test_the_gradient_of_argmin(self):
        fit = argmin(saddle, solver=stays)
        value = lambda p: jnp.sum(fit(p, jnp.ones(2)))  # noqa: E731
        assert self.last(jax.jit(jax.grad(value))).endswith(SADDLE)

    def test_a_bad_call_is_told_while_it_is_traced(self):
        compute = implicit_grad(lambda t, p: t, saddle, solver=stays)
        with pytest.raises(ValueError, match="outer must return a scalar") as raised:
            jax.jit(lambda p: compute(p, jnp.ones(2)))(PSI)
        assert "\n" not in str(raised.value)
