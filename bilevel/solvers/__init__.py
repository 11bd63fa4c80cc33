"""How theta* is found: one class a family, all with the same call."""

from ._base import AbstractSolver as AbstractSolver
from ._base import InnerRecord as InnerRecord
from ._base import Steps as Steps
from ._gradient_descent import GradientDescent as GradientDescent
from ._newton import Newton as Newton
