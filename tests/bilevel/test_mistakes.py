"""Mistakes that people make: each is answered at the call, in one sentence with the remedy."""

import jax
import jax.numpy as jnp
import lineax
import numpy as np
import optax
import pytest

from bilevel import (
    Result,
    argmin,
    check_hypergradient,
    hypergradient,
    implicit_grad,
    linearize,
    minimize,
    unrolled_grad,
)
from bilevel.inverse_hvp import CG, SGD, Dense, FiniteDifference, Lineax, Neumann
from bilevel.problems import Constrained, Root
from bilevel.single_loop import SOBA
from bilevel.solvers import (
    LBFGS,
    GradientDescent,
    InteriorPoint,
    Newton,
    NewtonCG,
    Optimistix,
    ProximalGradient,
)

PSI, START, X = jnp.asarray(1.0), jnp.zeros(2), jnp.ones(2)
DESCENT = GradientDescent(optax.sgd(0.1), 3)


def inner(theta, psi, x=1.0):
    return jnp.sum((theta - psi * x) ** 2)


def outer(theta, psi, x=1.0):
    return jnp.sum(theta**2)


def call(solver=DESCENT, also_inner=inner, also_outer=outer, inverse_hvp=None, **arguments):
    settings = {"solver": solver, "inverse_hvp": inverse_hvp}
    return hypergradient(also_outer, also_inner, **settings)(PSI, START, **arguments)


MISTAKES = {
    "an array for a tuple of arguments": (
        lambda: call(inner_args=X), ("inner_args", "tuple", "(x,)"),
    ),
    "a dictionary for a tuple": (
        lambda: call(inner_args={"x": X}), ("inner_args", "dict", "tuple"),
    ),
    "the same of the outer loss": (lambda: call(outer_args=X), ("outer_args", "tuple")),
    "an outer loss of a complex number": (
        lambda: call(also_outer=lambda theta, psi: jax.lax.complex(theta[0], theta[1])),
        ("outer", "complex64"),
    ),
    "an inner loss that counts": (
        lambda: call(also_inner=lambda theta, psi: jnp.sum(theta > psi)), ("inner", "int32"),
    ),
    "an outer loss that is a number of Python": (
        lambda: call(also_outer=lambda theta, psi: 3.5), ("outer", "3.5", "depends on neither"),
    ),
    "the same in unrolling": (
        lambda: unrolled_grad(outer, inner, solver=DESCENT)(PSI, START, inner_args=X),
        ("inner_args", "tuple"),
    ),
    "a solver's class": (lambda: call(solver=Newton), ("solver=Newton", "Newton()")),
    "a class with settings": (
        lambda: call(solver=GradientDescent), ("solver=GradientDescent", "GradientDescent(...)"),
    ),
    "a class in argmin": (lambda: argmin(inner, solver=LBFGS), ("solver=LBFGS", "LBFGS()")),
    "a class in the check": (
        lambda: check_hypergradient(outer, inner, solver=Newton), ("solver=Newton", "Newton()"),
    ),
    "an inverse's class": (lambda: call(inverse_hvp=CG), ("inverse_hvp=CG", "`CG()`")),
    "another inverse's class": (
        lambda: call(inverse_hvp=Neumann), ("inverse_hvp=Neumann", "Neumann(...)"),
    ),
    "a solver for an inverse": (
        lambda: call(inverse_hvp=Newton()), ("inverse_hvp", "Newton", "`CG()`"),
    ),
    "lineax' own solver for an inverse": (
        lambda: argmin(inner, solver=Newton(), inverse_hvp=lineax.GMRES(1e-5, 1e-5)),
        ("inverse_hvp", "GMRES"),
    ),
    "a rate for an optimiser": (
        lambda: GradientDescent(1e-2, steps=3), ("transformation=0.01", "optax.sgd(1e-2)"),
    ),
    "an optimiser's maker": (
        lambda: GradientDescent(optax.adam, steps=3), ("transformation=adam", "optax.sgd("),
    ),
    "a rate for SGD's optimiser": (lambda: SGD(1e-2, steps=3), ("transformation=0.01", "optax")),
    "an optimiser for a solver": (
        lambda: call(solver=optax.adam(1e-2)), ("solver", "GradientDescent(optimiser"),
    ),
    "an optimiser to unroll": (
        lambda: unrolled_grad(outer, inner, solver=optax.adam(1e-2)), ("solver", "GradientDescent"),
    ),
    "a solver of another kind to unroll": (
        lambda: unrolled_grad(outer, inner, solver=LBFGS()), ("LBFGS", "hypergradient"),
    ),
    "no solver": (lambda: call(solver="newton"), ("solver='newton'", "Newton()")),
    "a number for the inner loss": (lambda: call(also_inner=1.0), ("inner=1.0", "function")),
    "the value of the outer loss": (
        lambda: call(also_outer=jnp.sum(START)), ("outer=", "function"),
    ),
    "a loss for each row": (
        lambda: call(also_inner=lambda t, p: (t - p) ** 2), ("inner", "(2,)", ".mean()"),
    ),
    "a loss of one row": (
        lambda: call(also_inner=lambda t, p: jnp.sum(t - p)[None]), ("inner", "(1,)"),
    ),
    "aux that was not asked for": (
        lambda: call(also_inner=lambda t, p: (inner(t, p), 1)), ("inner", "inner_has_aux=True"),
    ),
    "aux of the outer loss": (
        lambda: call(also_outer=lambda t, p: (outer(t, p), 1)), ("outer", "has_aux=True"),
    ),
    "a loss that returns nothing": (
        lambda: call(also_inner=lambda t, p: None), ("inner", "NoneType"),
    ),
    "an integer psi": (
        lambda: hypergradient(outer, inner, solver=Newton())(2, START), ("psi", "1.0"),
    ),
    "a negative tolerance": (lambda: LBFGS(tol=-1.0), ("tol=-1.0", "1e-6")),
    "throw": (lambda: argmin(inner, solver=Newton(), throw=True), ("throw=True", "'ignore'")),
    "a key for a callable": (
        lambda: call(solver=lambda f, t: t, key=jax.random.key(0)), ("key", "plain callable"),
    ),
    "a key for LBFGS": (lambda: call(solver=LBFGS(), key=jax.random.key(0)), ("key", "LBFGS")),
    "a seed for a key": (lambda: call(key=3), ("key=3", "jax.random.key(3)")),
    "arguments that were forgotten": (
        lambda: call(also_inner=lambda t, p, x: inner(t, p, x)),
        ("inner(theta, psi, *inner_args)", "2 arguments", "'x'"),
    ),
    "an outer loss without psi": (
        lambda: call(also_outer=lambda t: jnp.sum(t**2)), ("outer(theta, psi", "too many"),
    ),
    "the same in minimize": (
        lambda: minimize(lambda t: jnp.sum(t**2), inner, PSI, START),
        ("outer(theta, psi", "too many"),
    ),
    "the same by differences": (
        lambda: call(also_outer=lambda t: jnp.sum(t**2), inverse_hvp=FiniteDifference()),
        ("outer(theta, psi", "too many"),
    ),
    "arguments that a root was not given": (
        lambda: hypergradient(outer, Root(lambda t, p, x: t - p * x), solver=Newton())(PSI, START),
        ("inner(theta, psi", "'x'"),
    ),
    "NumPy in the inner loss of minimize": (
        lambda: minimize(outer, lambda t, p: np.sum((np.asarray(t) - p) ** 2), PSI, START),
        ("inner(theta, psi", "`jax.numpy`"),
    ),
    "NumPy in the inner loss": (
        lambda: call(also_inner=lambda t, p: np.sum((np.asarray(t) - 1) ** 2)),
        ("NumPy", "`jax.numpy`"),
    ),
    "steps as a float": (
        lambda: GradientDescent(optax.sgd(0.1), steps=1e3), ("steps=1000.0", "steps=100"),
    ),
    "most steps as a float": (lambda: CG(max_steps=1e2), ("max_steps=100.0", "whole number")),
    "no steps": (lambda: NewtonCG(cg_max_steps=0), ("cg_max_steps=0", "1 or more")),
    "our own CG in lineax' place": (lambda: Lineax(CG()), ("CG()", "lineax.GMRES(")),
    "a class of optimistix": (lambda: Optimistix(LBFGS), ("solver=LBFGS is a class", "LBFGS(")),
    "a prox of theta alone": (
        lambda: call(solver=ProximalGradient(lambda t: t, 0.1)),
        ("prox(theta, psi, step_size)", "3 arguments"),
    ),
    "whether a constraint holds": (
        lambda: argmin(
            Constrained(inner, inequality=lambda t, p: t < 1), solver=InteriorPoint()
        )(PSI, START),
        ("inequality", "at most 0"),
    ),
    "a number for a callback": (
        lambda: minimize(outer, inner, PSI, START, callback=3), ("callback=3", "print"),
    ),
    "a parameter for a model": (lambda: linearize(X), ("model", "no function")),
    "a single loop without init": (
        lambda: SOBA(outer, inner, theta=optax.sgd(0.1), psi=optax.sgd(0.1)).step((PSI, START)),
        ("state is of type tuple", "init(psi, theta)"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_one_sentence(name, unchecked):
    run, words = MISTAKES[name]
    with pytest.raises(ValueError) as raised:
        run()
    text = str(raised.value)
    assert "\n" not in text and len(text) < 400
    for word in words:
        assert word in text, (word, text)


def test_losses_that_were_swapped():
    """What is handed over as the inner loss knows nothing of psi: a warning before the failure."""
    compute = implicit_grad(inner, outer, solver=Newton())
    with pytest.warns(UserWarning, match="check that outer and inner are not swapped"):
        compute(PSI, START + 1)


REMEDIES = {
    "a saddle after a rate that is too large": (
        Result.indefinite, ("learning rate", "regularise", "damping"), (),
    ),
    "a singular Hessian": (Result.singular, ("regularise", "Dense(pseudo_inverse=True)"), ()),
    "a linear solve gone astray": (Result.diverged, ("rate of `SGD`", "`rank`", "Nystrom"), ()),
    "out of steps": (Result.max_steps_reached, ("more steps", "damping"), ("learning rate",)),
    "not judged": (Result.not_judged, ("inner.distance", "tol"), ()),
    "an approximation": (Result.approximate, ("residual", "CG()"), ("learning rate",)),
}  # fmt: skip


@pytest.mark.parametrize("name", REMEDIES)
def test_remedies_fit_the_method(name):
    result, present, absent = REMEDIES[name]
    text = Result[result]
    assert text.endswith(".") and "\n" not in text
    assert all(word in text for word in present) and not any(word in text for word in absent)


def test_the_remedies_that_are_named_do_help():
    """The pseudo-inverse of a singular Hessian, and steps that end the descent at a minimum."""

    def flat(theta, psi):
        return (theta[0] - psi) ** 2

    solution = lambda loss, t: jnp.array([1.0, 0.0])  # noqa: E731
    settings = {"solver": solution}
    first = lambda t, p: 3 * t[0]  # noqa: E731
    with pytest.raises(RuntimeError, match=r"singular.*Dense\(pseudo_inverse=True\)"):
        implicit_grad(first, flat, inverse_hvp=Dense(), **settings)(PSI, START)
    grad = implicit_grad(first, flat, inverse_hvp=Dense(pseudo_inverse=True), **settings)(
        PSI, START
    )
    assert abs(grad - 3) < 1e-4


def test_a_step_size_that_is_too_large():
    prox = ProximalGradient(lambda t, p, s: t, 5.0, max_steps=20)
    with pytest.raises(RuntimeError, match="away from a minimum|NaN or infinity"):
        implicit_grad(outer, inner, solver=prox, inverse_hvp=Dense())(PSI, START)
