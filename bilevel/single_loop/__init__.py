"""Methods that take one step of all variables at a time, on mini-batches: `init` and `step`."""

from ._amigo import AmIGO as AmIGO
from ._amigo import StocBiO as StocBiO
from ._base import AbstractSingleLoop as AbstractSingleLoop
from ._base import State as State
from ._f2sa import F2SA as F2SA
from ._soba import MASOBA as MASOBA
from ._soba import SOBA as SOBA
