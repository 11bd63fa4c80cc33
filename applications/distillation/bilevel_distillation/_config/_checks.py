"""Checks of single settings."""

from typing import Any, get_args


def one_of(name: str, value: Any, known: Any) -> None:
    if value not in get_args(known):
        raise ValueError(
            f"{name}={value!r} is not known: choose one of {', '.join(get_args(known))}."
        )


def positive(name: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise ValueError(f"{name}={value} is not positive: give e.g. 1e-3.")


def not_negative(name: str, value: float | int) -> None:
    if value < 0:
        raise ValueError(f"{name}={value} is negative: give 0 or more.")


def at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name}={value} is too small: give 1 or more.")
