"""Linear algebra in the space of the outputs: m rows, one a distilled image, and C columns.

What is solved is `A x = b` with A = J J^T + R: J the Jacobian of the outputs with respect to the
parameters that move, and R = ridge I + h h^T, which acts on each column alone. A has m C rows: few
of them are factorised; for more, conjugate gradients are preconditioned with R.

Where nothing is traced, as on a CPU, J is kept in blocks of rows and each program holds one block:
it compiles in seconds whatever m, and its activations stay in the caches. Under a trace J is one
block.
"""

from ._jacobian import Jacobian as Jacobian
from ._jacobian import Linearized as Linearized
from ._jacobian import Rederived as Rederived
from ._jacobian import Rows as Rows
from ._kernel import Kernel as Kernel
from ._krylov import Solution as Solution
from ._linear import Linear as Linear
from ._linear import linear_gradient as linear_gradient
from ._system import MOST_FACTORISED as MOST_FACTORISED
from ._system import LinearSolver as LinearSolver
from ._system import System as System
from ._tangent import tangent_kernel as tangent_kernel
