"""jaxtyping's PyTree. `_types.pyi` is what a type checker reads in its place: `PyTree` is anything.

jaxtyping's own is of a type that checkers do not know, and a field that has it would not be known either.
"""

from jax import Array
from jaxtyping import PyTree as PyTree

Params = PyTree[Array]
