"""How theta* is found: one class a solver, all with the same call."""

from ._adapters import Jaxopt as Jaxopt
from ._adapters import Optimistix as Optimistix
from ._base import AbstractSolver as AbstractSolver
from ._base import InnerRecord as InnerRecord
from ._base import Steps as Steps
from ._gradient_descent import GradientDescent as GradientDescent
from ._lbfgs import LBFGS as LBFGS
from ._newton import Newton as Newton
from ._newton_cg import NewtonCG as NewtonCG
from ._proximal_gradient import ProjectedGradient as ProjectedGradient
from ._proximal_gradient import ProximalGradient as ProximalGradient
