"""The solvers and inverse Hessians of `fuzz.py`, in units of the inner loss.

Learning rates and step sizes come as arrays, `rate = 1 / (L unit)` with L the largest curvature, so
that problems share their programs. Dampings and tolerances are absolute: both grow with the unit.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxopt
import lineax as lx
import optax
import optimistix

from bilevel.inverse_hvp import CG, SGD, Dense, Identity, Lineax, Neumann, Nystrom
from bilevel.solvers import (
    LBFGS,
    GradientDescent,
    Jaxopt,
    Newton,
    NewtonCG,
    Optimistix,
    ProjectedGradient,
    ProximalGradient,
)


class Exact(eqx.Module):
    """A plain callable that knows theta*."""

    theta: Any

    def __call__(self, loss, theta0):
        return self.theta


class Early(eqx.Module):
    """A plain callable that takes five gradient steps."""

    rate: Any

    def __call__(self, loss, theta0):
        for _ in range(5):
            gradient = jax.grad(loss)(theta0)
            theta0 = jax.tree.map(lambda t, g: t - self.rate.astype(t.dtype) * g, theta0, gradient)
        return theta0


def hand_back(loss, theta0):
    return theta0


def unchanged(theta, psi, step_size):
    return theta


def _unused(theta):
    raise AssertionError("bilevel puts the inner loss in this place")


SGD_STEP = optax.sgd(1.0)


def solvers(unit: float, dtype: str) -> dict[str, Callable[[Any, Any], Any]]:
    """Name -> a function of the rate and of theta* that makes the solver."""
    tight = (1e-9 if dtype == "float64" else 1e-4) * unit
    adam = optax.adam(0.05, eps=1e-8 * unit)
    close = {"rtol": 1e-9, "atol": 1e-9} if dtype == "float64" else {"rtol": 1e-5, "atol": 1e-5}

    def descent(steps, **kwargs):
        return lambda rate, theta: GradientDescent(SGD_STEP, steps, scale=rate, **kwargs)

    def always(solver):
        return lambda rate, theta: solver

    return {
        "Newton": always(Newton()),
        "Newton, Dense": always(Newton(Dense())),
        "Newton, 8 steps": always(Newton(steps=8)),
        "Newton, Dense, 8 steps": always(Newton(Dense(), steps=8)),
        "NewtonCG": always(NewtonCG()),
        "LBFGS": always(LBFGS()),
        "LBFGS, 4 steps": always(LBFGS(max_steps=4)),
        "SGD, 3 steps": descent(3),
        "SGD, 50 steps": descent(50),
        "SGD, 2000 steps": descent(2000),
        "SGD, tol": descent(2000, tol=tight),
        "Adam, 20 steps": always(GradientDescent(adam, 20)),
        "Adam, 1000 steps": always(GradientDescent(adam, 1000)),
        "ProximalGradient, smooth": lambda rate, theta: ProximalGradient(unchanged, rate),
        "Jaxopt LBFGS": always(Jaxopt(jaxopt.LBFGS(_unused, maxiter=200, tol=tight))),
        "Jaxopt LBFGS, tol 1e-3": always(Jaxopt(jaxopt.LBFGS(_unused, tol=1e-3 * unit))),
        "Jaxopt GradientDescent": always(Jaxopt(jaxopt.GradientDescent(_unused, tol=1e-3 * unit))),
        "Optimistix BFGS": always(Optimistix(optimistix.BFGS(**close))),
        "Optimistix NonlinearCG": always(Optimistix(optimistix.NonlinearCG(**close))),
        "callable, exact": lambda rate, theta: Exact(theta),
        "callable, early": lambda rate, theta: Early(rate),
        "callable, theta0": always(hand_back),
    }


def proximal_solvers(constraint: str) -> dict[str, Callable[[Any, Any], Any]]:
    """As `solvers`, for constrained problems: functions of the rate and the proximal operator."""
    made = ProjectedGradient if constraint == "simplex" else ProximalGradient
    steps = {"": 1000, ", 3 steps": 3, ", 30 steps": 30}
    return {
        made.__name__ + label: partial(_proximal, made, count) for label, count in steps.items()
    }


def _proximal(made, steps, rate, operator):
    return made(operator, rate, max_steps=steps)


def inverses(unit: float) -> dict[str, tuple[float, Callable[[Any], Any]]]:
    """Name -> damping at this unit, and a function of the rate that makes the inverse Hessian."""

    def always(inverse):
        return inverse.damping, lambda rate: inverse

    def descent(steps):
        return 0.0, lambda rate: SGD(SGD_STEP, steps, scale=rate)

    damping = 0.05 * unit
    return {
        "CG": always(CG()),
        "CG, damped": always(CG(damping=damping)),
        "CG, Nystrom(4)": always(CG(preconditioner=Nystrom(4))),
        "CG, operator norm": always(CG(norm="operator")),
        "CG, 3 steps": always(CG(max_steps=3)),
        "CG, 3 steps, truncated": always(CG(max_steps=3, truncated=True)),
        "Dense": always(Dense()),
        "Dense, damped": always(Dense(damping=damping)),
        "Lineax GMRES": always(Lineax(lx.GMRES(1e-6, 1e-6))),
        "Lineax BiCGStab": always(Lineax(lx.BiCGStab(1e-6, 1e-6))),
        "Lineax CG": always(Lineax(lx.CG(1e-6, 1e-6))),
        "Lineax LU": always(Lineax(lx.LU())),
        "Lineax SVD": always(Lineax(lx.SVD())),
        "Neumann, 5": always(Neumann(5)),
        "Neumann, 1000": always(Neumann(1000)),
        "SGD, 30 steps": descent(30),
        "SGD, 2000 steps": descent(2000),
        "Nystrom, rank 3": always(Nystrom(3)),
        "Nystrom, rank 30": always(Nystrom(30)),
        "Nystrom, rank 3, damped": always(Nystrom(3, damping=damping)),
        "Identity": always(Identity()),
        "Identity, scale": (0.0, lambda rate: Identity(jnp.asarray(rate))),
    }
