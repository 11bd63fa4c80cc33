"""jaxtyping's PyTree, as a type checker can follow it: there, `PyTree` is anything.

jaxtyping's own is of a type that checkers do not know; the fields that have it would not be typed.
"""

from typing import TYPE_CHECKING, Any, TypeAlias, Union

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    _Leaf = TypeVar("_Leaf", default=Any)
    PyTree: TypeAlias = Union[Any, _Leaf]  # noqa: UP007  an alias with a parameter
    Params: TypeAlias = Any
else:
    from jax import Array
    from jaxtyping import PyTree as PyTree

    Params = PyTree[Array]
