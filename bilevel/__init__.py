"""Implicit differentiation and bilevel optimisation in JAX and Equinox.

    min over psi of  outer(theta*, psi)    where  theta* = argmin over theta of  inner(theta, psi)

Gradients with respect to psi:
    hypergradient            the gradient with a record of how far it can be trusted
    implicit_grad            the gradient alone, called as what jax.grad makes
    implicit_value_and_grad  the outer loss and the gradient
    check_hypergradient      the gradient beside finite differences, and what is wrong with it
    unrolled_grad            the gradient through the steps of gradient descent
    unrolled_value_and_grad  the same with the outer loss

Solutions that jax.grad goes through:
    argmin                   of a minimum
    root                     of F(theta, psi) = 0
    fixed_point              of theta = f(theta, psi)

The outer problem:
    minimize                 psi by quasi-Newton steps, with a stopping test
    single_loop              one step of all variables at a time, on mini-batches

What to choose from:
    solvers                  how theta* is found: Newton, LBFGS, GradientDescent, ...
    inverse_hvp              how the inverse Hessian is applied: CG, Dense, Nystrom, ...
    problems                 what holds at the solution: Root, FixedPoint, Constrained

Easier inner problems:
    linearize                a model, linear in its parameters
    ridge_head               the best last layer, in closed form
    reparameterize_last_layer  a loss whose last layer is always the best one
    subsample_backward       a function whose derivative goes through some of its rows
    gauss_newton             a model without second derivatives: a positive curvature
    over_keys                a stochastic function's mean over keys, and its standard error

What is returned:
    Hypergradient            of hypergradient
    HypergradientCheck       of check_hypergradient, with its Cause
    Cause                    what may be wrong with a hypergradient
    Minimum                  of minimize
    OuterStep                what the callback of minimize is given
    Result                   how a solve ended, and the sentence for it
    RidgeHead                of ridge_head
    Linearized               of linearize
    KeyMean                  of over_keys
    functions                the functions that are returned, and how they are called

For solvers of your own:
    iterate                  steps in an XLA loop, unrolled, or dispatched one by one
    never                    a test that never ends the steps
    hessian                  the Hessian of a loss, as a function of v
"""

from . import functions as functions
from . import inverse_hvp as inverse_hvp
from . import problems as problems
from . import single_loop as single_loop
from . import solvers as solvers
from ._argmin import argmin as argmin
from ._argmin import fixed_point as fixed_point
from ._argmin import root as root
from ._check import Cause as Cause
from ._check import HypergradientCheck as HypergradientCheck
from ._check import check_hypergradient as check_hypergradient
from ._gauss_newton import gauss_newton as gauss_newton
from ._hypergradient import hypergradient as hypergradient
from ._implicit_grad import implicit_grad as implicit_grad
from ._implicit_grad import implicit_value_and_grad as implicit_value_and_grad
from ._last_layer import RidgeHead as RidgeHead
from ._last_layer import reparameterize_last_layer as reparameterize_last_layer
from ._last_layer import ridge_head as ridge_head
from ._linearize import Linearized as Linearized
from ._linearize import linearize as linearize
from ._loops import iterate as iterate
from ._loops import never as never
from ._minimize import minimize as minimize
from ._outer_descent import Minimum as Minimum
from ._outer_descent import OuterStep as OuterStep
from ._over_keys import KeyMean as KeyMean
from ._over_keys import over_keys as over_keys
from ._record import Hypergradient as Hypergradient
from ._result import Result as Result
from ._subsample import subsample_backward as subsample_backward
from ._unrolled import unrolled_grad as unrolled_grad
from ._unrolled import unrolled_value_and_grad as unrolled_value_and_grad
from .problems._stationary import hessian as hessian

__version__ = "0.1.0.dev0"

__all__ = [
    "Cause",
    "Hypergradient",
    "HypergradientCheck",
    "KeyMean",
    "Linearized",
    "Minimum",
    "OuterStep",
    "Result",
    "RidgeHead",
    "argmin",
    "check_hypergradient",
    "fixed_point",
    "functions",
    "gauss_newton",
    "hessian",
    "hypergradient",
    "implicit_grad",
    "implicit_value_and_grad",
    "inverse_hvp",
    "iterate",
    "linearize",
    "minimize",
    "never",
    "over_keys",
    "problems",
    "reparameterize_last_layer",
    "ridge_head",
    "root",
    "single_loop",
    "solvers",
    "subsample_backward",
    "unrolled_grad",
    "unrolled_value_and_grad",
]
