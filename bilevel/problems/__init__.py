"""What holds at the solution of an inner problem that is no minimum of a loss."""

from .._point import Multipliers as Multipliers
from ._constrained import Constrained as Constrained
from ._fixed_point import FixedPoint as FixedPoint
from ._root import Root as Root
