"""A meta-iteration and what it is made of, for those who build on it or measure it."""

from ._engine import Draws as Draws
from ._engine import Estimate as Estimate
from ._engine import Metrics as Metrics
from ._engine import Pool as Pool
from ._engine import Recipe as Recipe
from ._engine import State as State
from ._engine import Training as Training
from ._engine import compiled_meta_step as compiled_meta_step
from ._engine import coreset_gradient as coreset_gradient
from ._engine import estimate as estimate
from ._engine import first_state as first_state
from ._engine import make_recipe as make_recipe
from ._engine import meta_step as meta_step
from ._engine import put as put
from ._engine import take as take
from ._engine import train_step as train_step
from ._output_space import Linear as Linear
from ._output_space import Solution as Solution
from ._output_space import linear_gradient as linear_gradient
from ._problem import AbstractImplicit as AbstractImplicit
from ._problem import AbstractSolver as AbstractSolver
from ._problem import Adam as Adam
from ._problem import Batch as Batch
from ._problem import LinearAdjoint as LinearAdjoint
from ._problem import MetaGradient as MetaGradient
from ._problem import Rates as Rates
from ._running import Call as Call
from ._running import layout as layout
from ._running import make_mesh as make_mesh
from ._running import recorded as recorded

__all__ = [
    "AbstractImplicit",
    "AbstractSolver",
    "Adam",
    "Batch",
    "Call",
    "Draws",
    "Estimate",
    "Linear",
    "LinearAdjoint",
    "MetaGradient",
    "Metrics",
    "Pool",
    "Rates",
    "Recipe",
    "Solution",
    "State",
    "Training",
    "compiled_meta_step",
    "coreset_gradient",
    "estimate",
    "first_state",
    "layout",
    "linear_gradient",
    "make_mesh",
    "make_recipe",
    "meta_step",
    "put",
    "recorded",
    "take",
    "train_step",
]
