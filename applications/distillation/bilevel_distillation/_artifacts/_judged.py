"""How good a run's set is, in a sentence for its card."""

from .._config import RunConfig
from ._figures import percent
from ._folder import RunFolder
from ._results import Accuracies


def judged(folder: RunFolder) -> str | None:
    """What a finished run's folder knows of how its set was judged; None before that."""
    results = folder.read_results()
    return None if results is None else judged_sentence(folder.read_config(), results)


def judged_sentence(config: RunConfig, results: Accuracies) -> str:
    how = config.evaluation
    recipe = [f"network {how.network}", f"normalisation {how.norm or config.norm or 'none'}"]
    if how.width or how.network == "convnet":
        recipe.append(f"width {how.width or config.width}")
    recipe += [f"{how.labels} labels", f"{'with' if how.augment else 'no'} augmentation"]
    if how.steps is not None:
        recipe.append(f"{how.steps} steps of Adam at {how.learning_rate:g}")
        recipe.append(f"{min(how.warmup, how.steps // 2)} of them a linear warm-up, then a cosine")
    said = f"{percent(results.distilled)} of the held-out images are recognised"
    if results.random_subset is not None:
        said += f", against {percent(results.random_subset)} after training on random images"
    n = len(results.distilled)
    return f"{said} ({n} {'network' if n == 1 else 'networks'}: {', '.join(recipe)})."
