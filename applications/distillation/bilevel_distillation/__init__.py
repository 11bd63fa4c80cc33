"""Dataset distillation on top of `bilevel`: RCIG and the methods that it is built from."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import data as data
    from . import engine as engine
    from . import networks as networks
    from ._app import Interrupted as Interrupted
    from ._app import OverSeeds as OverSeeds
    from ._app import SweepResults as SweepResults
    from ._app import SweptRun as SweptRun
    from ._app import SweptSetting as SweptSetting
    from ._app import run as run
    from ._app import sweep as sweep
    from ._artifacts import Accuracies as Accuracies
    from ._artifacts import AttackedNetwork as AttackedNetwork
    from ._artifacts import AttackResults as AttackResults
    from ._artifacts import AttackSettings as AttackSettings
    from ._artifacts import DistilledSet as DistilledSet
    from ._artifacts import draw_images as draw_images
    from ._artifacts import draw_learning_curve as draw_learning_curve
    from ._artifacts import export as export
    from ._artifacts import load_hf as load_hf
    from ._config import AttackConfig as AttackConfig
    from ._config import EvaluateConfig as EvaluateConfig
    from ._config import EvaluationConfig as EvaluationConfig
    from ._config import RunConfig as RunConfig
    from ._config import resolve as resolve
    from ._engine import Distillation as Distillation
    from ._judging import Evaluation as Evaluation
    from ._judging import Evaluations as Evaluations
    from ._judging import Held as Held
    from ._judging import Ranking as Ranking
    from ._judging import attack as attack
    from ._judging import hold as hold
    from ._judging import judge as judge
    from ._judging import judge_random_subsets as judge_random_subsets
    from ._judging import reevaluate as reevaluate
    from ._methods import BPTT as BPTT
    from ._methods import DC as DC
    from ._methods import DM as DM
    from ._methods import DSA as DSA
    from ._methods import EL2N as EL2N
    from ._methods import KIP as KIP
    from ._methods import METHODS as METHODS
    from ._methods import MTT as MTT
    from ._methods import RFAD as RFAD
    from ._methods import Herding as Herding
    from ._methods import KCenter as KCenter
    from ._methods import Random as Random
    from ._methods import make_method as make_method
    from ._page import report as report
    from ._problem import CIG as CIG
    from ._problem import RCIG as RCIG
    from ._problem import RIG as RIG
    from ._problem import VIG as VIG
    from ._problem import AbstractMethod as AbstractMethod
    from ._problem import Coreset as Coreset
    from ._problem import FRePo as FRePo
    from ._running import Reporter as Reporter
    from .data import augment as augment

__all__ = [
    "AbstractMethod",
    "Accuracies",
    "AttackConfig",
    "AttackResults",
    "AttackSettings",
    "AttackedNetwork",
    "BPTT",
    "CIG",
    "Coreset",
    "DC",
    "DM",
    "DSA",
    "Distillation",
    "DistilledSet",
    "EL2N",
    "EvaluateConfig",
    "Evaluation",
    "Evaluations",
    "EvaluationConfig",
    "FRePo",
    "Held",
    "Herding",
    "Interrupted",
    "KCenter",
    "KIP",
    "METHODS",
    "MTT",
    "OverSeeds",
    "RCIG",
    "RFAD",
    "RIG",
    "Random",
    "Ranking",
    "Reporter",
    "RunConfig",
    "SweepResults",
    "SweptRun",
    "SweptSetting",
    "VIG",
    "attack",
    "augment",
    "data",
    "draw_images",
    "draw_learning_curve",
    "engine",
    "export",
    "hold",
    "judge",
    "judge_random_subsets",
    "load_hf",
    "make_method",
    "networks",
    "reevaluate",
    "report",
    "resolve",
    "run",
    "sweep",
]

__version__ = "0.1.0.dev0"

# Nothing is imported before it is used: the command line speaks before jax is loaded.
_HOMES = {
    "._app": (
        "Interrupted",
        "OverSeeds",
        "SweepResults",
        "SweptRun",
        "SweptSetting",
        "run",
        "sweep",
    ),
    "._artifacts": (
        "Accuracies",
        "AttackedNetwork",
        "AttackResults",
        "AttackSettings",
        "DistilledSet",
        "draw_images",
        "draw_learning_curve",
        "export",
        "load_hf",
    ),
    "._config": (
        "AttackConfig",
        "EvaluateConfig",
        "EvaluationConfig",
        "RunConfig",
        "resolve",
    ),
    "._engine": ("Distillation",),
    "._judging": (
        "Evaluation",
        "Evaluations",
        "Held",
        "Ranking",
        "attack",
        "hold",
        "judge",
        "judge_random_subsets",
        "reevaluate",
    ),
    "._methods": (
        "BPTT",
        "DC",
        "DM",
        "DSA",
        "EL2N",
        "KIP",
        "METHODS",
        "MTT",
        "RFAD",
        "Herding",
        "KCenter",
        "Random",
        "make_method",
    ),
    "._page": ("report",),
    "._problem": (
        "CIG",
        "RCIG",
        "RIG",
        "VIG",
        "AbstractMethod",
        "Coreset",
        "FRePo",
    ),
    "._running": ("Reporter",),
    ".data": ("augment",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in ("data", "engine", "networks"):
        return import_module(f".{name}", __name__)
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(_HOME[name], __name__), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
