"""A distillation as it goes: a meta-step, what it is made of, and the object that takes it."""

from ._distillation import Distillation as Distillation
from ._distillation import Diverged as Diverged
from ._estimate import Estimate as Estimate
from ._estimate import advise as advise
from ._estimate import estimate as estimate
from ._gradient import coreset_gradient as coreset_gradient
from ._inputs import load_data as load_data
from ._makers import check_judges as check_judges
from ._makers import judging_maker as judging_maker
from ._meta_step import compiled_meta_step as compiled_meta_step
from ._meta_step import meta_step as meta_step
from ._pool import MakeNetwork as MakeNetwork
from ._pool import Member as Member
from ._pool import Pool as Pool
from ._pool import make_member as make_member
from ._pool import put as put
from ._pool import take as take
from ._pool import train_on as train_on
from ._pool import train_step as train_step
from ._recipe import first_state as first_state
from ._recipe import make_recipe as make_recipe
from ._state import Draws as Draws
from ._state import Metrics as Metrics
from ._state import Recipe as Recipe
from ._state import State as State
from ._training_data import Training as Training
