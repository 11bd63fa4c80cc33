"""The names that settings may have, and what the command line says of those left open."""

from typing import Annotated, Literal, TypeVar, get_args

import tyro

MethodName = Literal["vig", "cig", "rig", "rcig", "frepo"]
METHOD_GROUP = "bilevel_distillation.methods"
"""Entry points by which another package brings methods."""

Solve = Literal["exact", "adam"]
Init = Literal["real", "noise", "kmeans"]
LinearSolver = Literal["auto", "cholesky", "cg"]
Precision = Literal["float32", "tensorfloat32", "bfloat16"]
Storage = Literal["auto", "floats", "bytes", "host"]
Devices = int | Literal["all"]
LabelName = Literal["soft", "hard"]

Method = Annotated[
    str, tyro.conf.arg(metavar="{" + ",".join(get_args(MethodName)) + ",MODULE:CLASS}")
]

# Settings that may stay open; the command line shows what is taken then.
T = TypeVar("T")
Open = Annotated[T | None, tyro.conf.arg(help_behavior_hint="")]
ByData = Annotated[T | None, tyro.conf.arg(help_behavior_hint="(default: by the data set)")]
Found = Annotated[T | None, tyro.conf.arg(help_behavior_hint="(default: found by itself)")]
BySolve = Annotated[T | None, tyro.conf.arg(help_behavior_hint="(default: by solve)")]
AsDistilled = Annotated[T | None, tyro.conf.arg(help_behavior_hint="(default: as distilled)")]
ByNetwork = Annotated[T | None, tyro.conf.arg(help_behavior_hint="(default: by the network)")]
