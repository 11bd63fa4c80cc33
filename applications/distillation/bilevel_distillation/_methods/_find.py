"""Methods by their names: those of this package, those that other packages bring, and any class."""

import inspect
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from .._problem import CIG, RCIG, RIG, VIG, AbstractMethod, AbstractSolver, Adam, FRePo
from ..networks import find
from ._bptt import BPTT
from ._chosen import EL2N, Herding, KCenter, Random
from ._dc import DC, DSA
from ._dm import DM
from ._kip import KIP
from ._mtt import MTT
from ._rfad import RFAD

METHODS: dict[str, type[AbstractMethod]] = {
    "vig": VIG,
    "cig": CIG,
    "rig": RIG,
    "rcig": RCIG,
    "frepo": FRePo,
    "dm": DM,
    "dc": DC,
    "dsa": DSA,
    "kip": KIP,
    "rfad": RFAD,
    "bptt": BPTT,
    "mtt": MTT,
    "random": Random,
    "herding": Herding,
    "k-center": KCenter,
    "el2n": EL2N,
}

GROUP = "bilevel_distillation.methods"
"""The entry points by which another package brings methods of its own."""


def find_method(name: str) -> type[AbstractMethod]:
    """The class of a method: one of `METHODS`, one that an installed package brings by that name,
    or `package.module:Class`.

    Raises:
        ValueError: there is none, or it is no method.
    """
    found = find("method", name, METHODS, GROUP)
    if not (inspect.isclass(found) and issubclass(found, AbstractMethod)):
        raise ValueError(
            f"method={name!r} is no method: make a subclass of "
            "bilevel_distillation.AbstractMethod of it."
        )
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
