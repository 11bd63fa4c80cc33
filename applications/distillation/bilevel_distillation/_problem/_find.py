"""Methods by their names: the house's own, those that other packages bring, and any class."""

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import fields
from importlib.metadata import entry_points
from typing import Any

from ._cig import CIG
from ._frepo import FRePo
from ._method import AbstractMethod
from ._rcig import RCIG
from ._rig import RIG
from ._solving import AbstractSolver, Adam
from ._vig import VIG

METHODS: dict[str, type[AbstractMethod]] = {
    "vig": VIG,
    "cig": CIG,
    "rig": RIG,
    "rcig": RCIG,
    "frepo": FRePo,
}

GROUP = "bilevel_distillation.methods"
"""The entry points by which another package brings methods of its own."""


def find_method(name: str) -> type[AbstractMethod]:
    """The class of a method: one of `METHODS`, one that an installed package brings by that name,
    or `package.module:Class`.

    Raises:
        ValueError: there is none, or it is no method.
    """
    if name in METHODS:
        return METHODS[name]
    brought = {point.name: point for point in entry_points(group=GROUP)}
    if name not in brought and ":" not in name:
        known = ", ".join([*METHODS, *sorted(brought)])
        raise ValueError(
            f"method={name!r} is not known: choose one of {known}, or name a class of your own, "
            "package.module:Class."
        )
    try:
        found = brought[name].load() if name in brought else _load(name)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"method={name!r} cannot be imported ({error}): name a class that Python finds, "
            "package.module:Class."
        ) from error
    if not (inspect.isclass(found) and issubclass(found, AbstractMethod)):
        raise ValueError(
            f"method={name!r} is no method: make a subclass of "
            "bilevel_distillation.AbstractMethod of it."
        )
    return found


def _load(path: str) -> Any:
    module, _, name = path.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def from_settings(kind: type[AbstractMethod], settings: Mapping[str, Any]) -> AbstractMethod:
    """A method whose fields have the settings of the same names."""
    names = {field.name for field in fields(kind) if field.init}
    return kind(**{name: value for name, value in settings.items() if name in names})


def make_method(
    name: str,
    *,
    ridge_rate: float = 5e-4,
    microbatch: int | None = None,
    n_subset: int | None = None,
    solver: AbstractSolver | None = None,
) -> AbstractMethod:
    """The method of that name.

    Args:
        name: one of `METHODS`, or as `find_method` takes it.
        ridge_rate: lambda / n.
        microbatch: images go through the network in parts of this size; None: all at once.
        n_subset: derivatives go through so many distilled images; None: through all.
        solver: how the gradient of a method with an inner problem is found; None: by 20 steps of
            Adam.

    Raises:
        ValueError: an unknown name.
    """
    return from_settings(
        find_method(name),
        dict(
            ridge_rate=ridge_rate,
            microbatch=microbatch,
            n_subset=n_subset,
            solver=Adam() if solver is None else solver,
        ),
    )
