"""How the inverse Hessian is applied: one class a method, all with the same call."""

from typing import TYPE_CHECKING, Any

from ._base import AbstractInverseHVP as AbstractInverseHVP
from ._base import Adjoint as Adjoint
from ._base import Iterate as Iterate
from ._cg import CG as CG
from ._conjugate import ConjugateGradients as ConjugateGradients
from ._conjugate import ConjugateGradientState as ConjugateGradientState
from ._dense import Dense as Dense
from ._equilibration import Equilibration as Equilibration
from ._finite_difference import FiniteDifference as FiniteDifference
from ._identity import Identity as Identity
from ._krylov_space import KrylovSpace as KrylovSpace
from ._neumann import Neumann as Neumann
from ._nystrom import Nystrom as Nystrom
from ._preconditioner import AbstractPreconditioner as AbstractPreconditioner
from ._sgd import SGD as SGD

if TYPE_CHECKING:
    from ._lineax import Lineax as Lineax


def __getattr__(name: str) -> Any:
    """`Lineax` where it is asked for, as lineax is slow to import."""
    if name != "Lineax":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ._lineax import Lineax

    globals()[name] = Lineax
    return Lineax


def __dir__() -> list[str]:
    return sorted({*globals(), "Lineax"} - {"Any", "TYPE_CHECKING"})
