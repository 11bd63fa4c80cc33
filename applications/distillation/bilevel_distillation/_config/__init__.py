"""The settings, typed: the command line is made from them, a run's folder holds them."""

from ._evaluation import EvaluationConfig as EvaluationConfig
from ._json import differences as differences
from ._json import from_json as from_json
from ._json import to_json as to_json
from ._resolve import resolve as resolve
from ._run import RunConfig as RunConfig
from ._tools import AttackConfig as AttackConfig
from ._tools import EvaluateConfig as EvaluateConfig
from ._types import INITS as INITS
from ._types import Kind as Kind
from ._types import Optimiser as Optimiser
from ._types import Storage as Storage
from ._types import Trainer as Trainer
