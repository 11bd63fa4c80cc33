"""The names that settings may have, and what the command line says of those left open."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal, TypeVar

import tyro

from ..networks import NETWORKS

METHOD_NAMES = (
    "vig", "cig", "rig", "rcig", "frepo",
    "dm", "dc", "dsa", "kip", "rfad", "bptt", "mtt",
    "random", "herding", "k-center", "el2n",
)  # fmt: skip
METHOD_GROUP = "bilevel_distillation.methods"
"""The entry points by which another package brings methods."""

Solve = Literal["linear", "adam"]
INITS = ("real", "noise", "kmeans")
Optimiser = Literal["adabelief", "adam", "sgd"]
LinearSolver = Literal["auto", "cholesky", "cg"]
Precision = Literal["float32", "tensorfloat32", "bfloat16"]
Storage = Literal["auto", "floats", "bytes", "host"]
Devices = int | Literal["all"]
LabelName = Literal["soft", "hard"]
JudgeName = Literal["paper", "wide-instance"]
LossName = Literal["squared", "cross-entropy"]
Trainer = Literal["adam", "sgd"]
RecipeName = Literal["common", "own"]
Kind = Literal["distilled", "random_subset", "real_data"]


def _named(names: Iterable[str]) -> Any:
    return tyro.conf.arg(metavar="{" + ",".join([*names, "MODULE:CLASS"]) + "}")


Method = Annotated[str, _named(METHOD_NAMES)]
Network = Annotated[str, _named(NETWORKS)]

# Settings that may stay open; the command line shows what is taken then.
T = TypeVar("T")
Open = Annotated[T | None, tyro.conf.arg(help_behavior_hint="")]
ByData = Annotated[T | None, tyro.conf.arg(help_behavior_hint="(default: by the data set)")]
Found = Annotated[T | None, tyro.conf.arg(help_behavior_hint="(default: found by itself)")]
ByMethod = Annotated[T | None, tyro.conf.arg(help_behavior_hint="(default: by the method)")]
BySolve = Annotated[T | None, tyro.conf.arg(help_behavior_hint="(default: by solve)")]
AsDistilled = Annotated[T | None, tyro.conf.arg(help_behavior_hint="(default: as distilled)")]
AsAsked = Annotated[T | None, tyro.conf.arg(help_behavior_hint="(default: network and norm)")]
ByNetwork = Annotated[T | None, tyro.conf.arg(help_behavior_hint="(default: by the network)")]
