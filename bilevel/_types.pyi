from typing import Any, TypeAlias

from typing_extensions import TypeVar

_Leaf = TypeVar("_Leaf", default=Any)
PyTree: TypeAlias = Any | _Leaf
Params: TypeAlias = Any
