"""What is asked of single settings."""

from importlib.metadata import entry_points
from typing import Any, get_args

from ._types import METHOD_GROUP, MethodName


def one_of(name: str, value: Any, known: Any) -> None:
    if value not in get_args(known):
        raise ValueError(
            f"{name}={value!r} is not known: choose one of {', '.join(get_args(known))}."
        )


def known_method(value: str) -> None:
    """Raise unless it is a method of the house, one that a package brings, or names a class."""
    known = [*get_args(MethodName), *sorted(p.name for p in entry_points(group=METHOD_GROUP))]
    if value not in known and ":" not in value:
        raise ValueError(
            f"method={value!r} is not known: choose one of {', '.join(known)}, or name a class of "
            "your own, package.module:Class."
        )


def positive(name: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise ValueError(f"{name}={value} is not positive: give e.g. 1e-3.")


def at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name}={value} is too small: give 1 or more.")
