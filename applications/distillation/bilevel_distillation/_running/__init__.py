"""How work is run here: in parts, compiled, on how many devices, and who hears of it."""

from ._devices import constrain as constrain
from ._devices import from_first as from_first
from ._devices import gather as gather
from ._devices import in_any as in_any
from ._devices import is_first as is_first
from ._devices import join_processes as join_processes
from ._devices import layout as layout
from ._devices import make_mesh as make_mesh
from ._devices import pick as pick
from ._devices import spread as spread
from ._memory import held_by_one as held_by_one
from ._memory import part_size as part_size
from ._parts import Call as Call
from ._parts import accumulate as accumulate
from ._parts import compiled as compiled
from ._parts import in_parts as in_parts
from ._parts import join as join
from ._parts import recorded as recorded
from ._parts import slices as slices
from ._reporter import Quiet as Quiet
from ._reporter import Reporter as Reporter
