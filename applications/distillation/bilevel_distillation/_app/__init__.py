"""The application itself: runs in folders, sweeps, the screen and the command line."""

from ._cli import main as main
from ._run import Interrupted as Interrupted
from ._run import run as run
from ._sweep import sweep as sweep
from ._swept import OverSeeds as OverSeeds
from ._swept import SweepResults as SweepResults
from ._swept import SweptRun as SweptRun
from ._swept import SweptSetting as SweptSetting
