"""Methods beside those of an inner problem, and all methods by their names."""

from ._bptt import BPTT as BPTT
from ._choice import AbstractChoice as AbstractChoice
from ._chosen import EL2N as EL2N
from ._chosen import Herding as Herding
from ._chosen import KCenter as KCenter
from ._chosen import Random as Random
from ._dc import DC as DC
from ._dc import DSA as DSA
from ._dm import DM as DM
from ._find import METHODS as METHODS
from ._find import find_method as find_method
from ._find import from_settings as from_settings
from ._find import make_method as make_method
from ._kip import KIP as KIP
from ._mtt import MTT as MTT
from ._rfad import RFAD as RFAD
