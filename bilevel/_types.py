"""jaxtyping's PyTree. `_types.pyi` is what a type checker reads in its place: `PyTree` is anything.

jaxtyping's own is of a type that checkers do not know, nor would they know a field that has it.
"""

from jax import Array
from jaxtyping import PyTree as PyTree

Params = PyTree[Array]
