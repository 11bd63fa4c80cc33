"""Figures as a table shows them."""

from collections.abc import Sequence

import numpy as np


def in_words(attacker: str) -> str:
    """How an attacker is called in a table."""
    return "MLP" if attacker == "mlp" else attacker.replace("_", " ")


def spread(figures: Sequence[float]) -> str:
    """Mean ± standard deviation; of one figure, itself."""
    if len(figures) == 1:
        return f"{figures[0]:.2f}"
    return f"{np.mean(figures):.2f} ± {np.std(figures):.2f}"


def percent(accuracies: Sequence[float]) -> str:
    """Mean ± standard deviation over networks, in percent; of one network, its accuracy."""
    if len(accuracies) == 1:
        return f"{100 * accuracies[0]:.1f} %"
    return f"{100 * np.mean(accuracies):.1f} ± {100 * np.std(accuracies):.1f} %"
