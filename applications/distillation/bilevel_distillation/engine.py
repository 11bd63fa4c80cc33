"""A meta-iteration and what it is made of, for those who build on it or measure it."""

from ._devices import layout as layout
from ._devices import make_mesh as make_mesh
from ._estimate import Estimate as Estimate
from ._estimate import estimate as estimate
from ._exact import Exact as Exact
from ._exact import MetaGradient as MetaGradient
from ._exact import exact_gradient as exact_gradient
from ._meta_step import Draws as Draws
from ._meta_step import Metrics as Metrics
from ._meta_step import Rates as Rates
from ._meta_step import Recipe as Recipe
from ._meta_step import State as State
from ._meta_step import compiled_meta_step as compiled_meta_step
from ._meta_step import coreset_gradient as coreset_gradient
from ._meta_step import meta_step as meta_step
from ._output_space import Solution as Solution
from ._parts import Call as Call
from ._parts import recorded as recorded
from ._pool import Pool as Pool
from ._pool import put as put
from ._pool import take as take
from ._pool import train_step as train_step
from ._recipe import first_state as first_state
from ._recipe import make_recipe as make_recipe
from ._training_data import Training as Training
