"""What a distilled set is worth: networks trained on it, ranked and attacked."""

from ._attack import attack as attack
from ._evaluations import Cost as Cost
from ._evaluations import Evaluation as Evaluation
from ._evaluations import Evaluations as Evaluations
from ._evaluations import OfSet as OfSet
from ._judge import Held as Held
from ._judge import hold as hold
from ._judge import hold_watched as hold_watched
from ._judge import judge as judge
from ._judge import judge_random_subsets as judge_random_subsets
from ._ranking import Ranking as Ranking
from ._reevaluate import reevaluate as reevaluate
