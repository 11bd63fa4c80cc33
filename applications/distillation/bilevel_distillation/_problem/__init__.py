"""The bilevel problem of distillation: what is learned, the losses, and the methods."""

from ._batch import Batch as Batch
from ._batch import Rates as Rates
from ._cig import CIG as CIG
from ._coreset import Coreset as Coreset
from ._coreset import centred_one_hot as centred_one_hot
from ._coreset import choose_per_class as choose_per_class
from ._frepo import FRePo as FRePo
from ._gradient import MetaGradient as MetaGradient
from ._implicit import AbstractImplicit as AbstractImplicit
from ._implicit import AbstractLinearized as AbstractLinearized
from ._losses import cross_entropy as cross_entropy
from ._losses import platt_loss as platt_loss
from ._losses import soft_cross_entropy as soft_cross_entropy
from ._losses import squared_error as squared_error
from ._method import AbstractMethod as AbstractMethod
from ._rcig import RCIG as RCIG
from ._real import Real as Real
from ._real import Rows as Rows
from ._real import rows_of_classes as rows_of_classes
from ._rig import RIG as RIG
from ._solving import CONJUGATE_GRADIENTS as CONJUGATE_GRADIENTS
from ._solving import AbstractSolver as AbstractSolver
from ._solving import Adam as Adam
from ._solving import LinearAdjoint as LinearAdjoint
from ._solving import adam as adam
from ._vig import VIG as VIG
