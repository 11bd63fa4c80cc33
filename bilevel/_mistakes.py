"""What is looked at where somebody hands something over: each mistake is one sentence."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

INNER = "inner(theta, psi, *inner_args)"
OUTER = "outer(theta, psi, *outer_args)"


def check_steps(steps: Any, name: str = "steps", least: int = 1) -> None:
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer):
        raise ValueError(f"{name}={steps!r} is no whole number: give e.g. {name}=100.")
    if steps < least:
        left = "leaves no step to take" if least else "is negative"
        raise ValueError(f"{name}={steps} {left}: give {least} or more.")


def check_key(key: Any) -> None:
    """Raise where a key is a seed, or anything else that is no key."""
    if key is not None and not hasattr(key, "dtype"):
        seed = key if isinstance(key, int) else 0
        raise ValueError(f"key={key!r} is no key of jax: pass `jax.random.key({seed})`.")


def call(function: Callable[..., Any], form: str, *args: Any, **kwargs: Any) -> Any:
    """`function(*args, **kwargs)`, as in `form`, e.g. "inner(theta, psi, *inner_args)".

    Raises:
        ValueError: it does not take these arguments, or hands one of them to NumPy.
    """
    try:
        return function(*args, **kwargs)
    except jax.errors.TracerArrayConversionError as error:
        raise ValueError(
            f"{form} hands what jax differentiates to NumPy: use `jax.numpy` in it."
        ) from error
    except TypeError as error:
        reason = _misfit(function, args, kwargs)
        if reason is None:
            raise
        given = f"{len(args)} arguments" + "".join(f" and {name}=" for name in kwargs)
        raise ValueError(
            f"{form} was called with {given}, which it does not take ({reason}): give it what it "
            "asks for, or change its arguments."
        ) from error


def _misfit(function: Callable[..., Any], args: tuple, kwargs: dict) -> str | None:
    """Why a function cannot be called so; None where it can."""
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError as error:
        return str(error)
    except ValueError:  # it has no signature
        return None
    return None
