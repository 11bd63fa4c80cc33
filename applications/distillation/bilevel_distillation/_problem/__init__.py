"""The bilevel problem of distillation: what is learned, the losses, and the methods."""

from ._coreset import Coreset as Coreset
from ._coreset import centred_one_hot as centred_one_hot
from ._coreset import choose_per_class as choose_per_class
from ._losses import squared_error as squared_error
from ._methods import CIG as CIG
from ._methods import METHODS as METHODS
from ._methods import RCIG as RCIG
from ._methods import RIG as RIG
from ._methods import VIG as VIG
from ._methods import AbstractLinearized as AbstractLinearized
from ._methods import AbstractMethod as AbstractMethod
from ._methods import FRePo as FRePo
from ._methods import make_method as make_method
