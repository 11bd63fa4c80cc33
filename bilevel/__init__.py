"""Implicit differentiation and bilevel optimisation in JAX and Equinox."""

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
from ._record import Hypergradient as Hypergradient
from ._result import Result as Result
from ._subsample import subsample_backward as subsample_backward
from ._unrolled import unrolled_grad as unrolled_grad
from ._unrolled import unrolled_value_and_grad as unrolled_value_and_grad
from .problems._stationary import hessian as hessian

__version__ = "0.1.0.dev0"
