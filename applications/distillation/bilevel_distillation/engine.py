"""A meta-iteration and what it is made of, for those who build on it or measure it."""

from ._engine import Draws as Draws
from ._engine import Estimate as Estimate
from ._engine import Metrics as Metrics
from ._engine import Pool as Pool
from ._engine import Rates as Rates
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
from ._output_space import Exact as Exact
from ._output_space import MetaGradient as MetaGradient
from ._output_space import Solution as Solution
from ._output_space import exact_gradient as exact_gradient
from ._running import Call as Call
from ._running import layout as layout
from ._running import make_mesh as make_mesh
from ._running import recorded as recorded
