"""How theta* is found: one class a solver, all with the same call."""

from ._adapters import Jaxopt as Jaxopt
from ._adapters import Optimistix as Optimistix
from ._anderson import Anderson as Anderson
from ._base import AbstractSolver as AbstractSolver
from ._base import InnerRecord as InnerRecord
from ._base import Steps as Steps
from ._fixed_point import FixedPointIteration as FixedPointIteration
from ._gradient_descent import GradientDescent as GradientDescent
from ._interior_point import InteriorPoint as InteriorPoint
from ._lbfgs import LBFGS as LBFGS
from ._newton import Newton as Newton
from ._newton_cg import NewtonCG as NewtonCG
from ._proximal_gradient import ProjectedGradient as ProjectedGradient
from ._proximal_gradient import ProximalGradient as ProximalGradient
