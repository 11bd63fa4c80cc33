"""Curves on the page: small SVG pictures in the page's own colours and fonts."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .._artifacts import has, series
from .._config import RunConfig

if TYPE_CHECKING:
    from matplotlib.axes import Axes
else:  # heavy imports wait until they are used
    Axes = Any

Records = Sequence[Mapping[str, Any]]

# Matplotlib draws with these; the style sheet has the true colours, for light and for dark.
_COLOURS = {"soft": "#010101", "line": "#020202", "accent": "#030303", "warm": "#040404"}
_MOST_BINS = 80
_STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": _COLOURS["line"],
    "axes.labelcolor": _COLOURS["soft"],
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": _COLOURS["line"],
    "grid.linewidth": 0.8,
    "xtick.color": _COLOURS["line"],
    "xtick.labelcolor": _COLOURS["soft"],
    "ytick.color": _COLOURS["line"],
    "ytick.labelcolor": _COLOURS["soft"],
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
}


@dataclass(frozen=True)
class Curve:
    """A line of a plot: a metric, and how it is drawn and called.

    Attributes:
        key: its name in the metrics.
        name: in the legend.
        colour: accent or warm.
        scale: what values are multiplied by.
        points: drawn point by point, with deviations; else as the mean of parts of the run, in a
            band from the least to the greatest.
    """

    key: str
    name: str
    colour: str
    scale: float = 1.0
    points: bool = False


@dataclass(frozen=True)
class Plot:
    """A drawn plot: its title, its SVG, its legend as (kind of line, name), and words for it."""

    title: str
    svg: str
    legend: list[tuple[str, str]]
    words: str


def learning_plots(records: Records, random_subset: float | None) -> list[Plot]:
    """Accuracy and loss; what was not recorded is left out.

    Args:
        records: the metrics of a run.
        random_subset: the accuracy of random subsets, as a fraction, to compare with.
    """
    accuracy = [
        Curve("accuracy", "outer batch (training images)", "accent", 100.0),
        Curve("test_accuracy", "test, a network trained from scratch", "warm", 100.0, points=True),
    ]
    plots = [
        _plot("Accuracy (%)", records, accuracy, level=_percent_level(random_subset)),
        _plot("Outer loss", records, [Curve("loss", "outer batch (training images)", "accent")]),
    ]
    return [plot for plot in plots if plot]


def solver_plots(records: Records, config: RunConfig) -> list[Plot]:
    """How well the inner problem and the adjoint were solved, in how many steps, and how much of
    the gradient that gives; what was not recorded is left out.
    """
    errors = [
        Curve("inner_error", "inner problem", "accent"),
        Curve("adjoint_error", "adjoint", "warm"),
    ]
    residuals = [
        Curve("inner_gradient_norm", "gradient of the inner problem", "accent"),
        Curve("adjoint_residual", "adjoint, relative residual", "warm"),
    ]
    steps = [
        Curve("inner_steps", "inner problem", "accent"),
        Curve("adjoint_steps", "adjoint", "warm"),
    ]
    share = [Curve("implicit_share", "implicit part / whole gradient", "accent")]
    counted = any(has(r, c.key) and r[c.key] > 0 for r in records for c in steps)
    goal = (config.rtol, "tolerance") if config.solve == "linear" else None
    plots = [
        _plot("Relative error of the solves", records, errors, level=goal, log=True),
        _plot("What the solves left over", records, residuals, log=True),
        _plot("Steps of the solves", records, steps if counted else [], whole=True),
        _plot("Implicit share of the images' gradient", records, share),
    ]
    return [plot for plot in plots if plot]


def _percent_level(accuracy: float | None) -> tuple[float, str] | None:
    return None if accuracy is None else (100 * accuracy, "random subset of the same size")


def _plot(
    title: str,
    records: Records,
    curves: Sequence[Curve],
    *,
    level: tuple[float, str] | None = None,
    log: bool = False,
    whole: bool = False,
) -> Plot | None:
    """A plot of those curves that have values, with a dashed level; None if none has."""
    import matplotlib

    found = [(curve, *_values(records, curve, log)) for curve in curves]
    found = [one for one in found if len(one[1])]
    if not found:
        return None
    salt = re.sub(r"\W+", "-", title)
    style: Any = {**_STYLE, "svg.hashsalt": salt}
    with matplotlib.rc_context(style):
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

        figure = Figure(figsize=(330 / 72, 208 / 72), layout="constrained")
        figure.patch.set_visible(False)
        axes = figure.subplots()
        axes.patch.set_visible(False)
        legend, words = [], []
        for curve, steps, values in found:
            if curve.points:
                _draw_points(axes, steps, values, _deviations(records, curve), curve)
            else:
                _draw_band(axes, steps, values, curve)
            legend.append((f"{curve.colour} {'points' if curve.points else 'line'}", curve.name))
            words.append(
                f"{curve.name}: from {values[0]:.3g} at iteration {steps[0]:.0f} to "
                f"{values[-1]:.3g} at iteration {steps[-1]:.0f}"
            )
        if level is not None:
            axes.axhline(level[0], color=_COLOURS["soft"], linewidth=1.2, dashes=(4, 3))
            legend.append(("dashed", level[1]))
            words.append(f"{level[1]}: {level[0]:.3g}")
        low, high = min(v.min() for _, _, v in found), max(v.max() for _, _, v in found)
        if log or (low > 0 and high > 20 * low):
            _scale_log(axes, high / low)
        axes.set_xlabel("iteration")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if whole:
            axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.margins(x=0.03)
        svg = io.StringIO()
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return Plot(title, _for_the_page(svg.getvalue()), legend, f"{title}. {'; '.join(words)}.")


def _values(records: Records, curve: Curve, log: bool) -> tuple[np.ndarray, np.ndarray]:
    steps, values = series(records, curve.key)
    fit = values > 0 if log else np.ones(len(values), bool)
    return steps[fit], curve.scale * values[fit]


def _deviations(records: Records, curve: Curve) -> np.ndarray:
    tested = [record for record in records if has(record, curve.key)]
    return curve.scale * np.array([r.get(f"{curve.key}_std") or 0.0 for r in tested])


def _draw_points(axes: Axes, steps, values, deviations, curve: Curve) -> None:
    axes.errorbar(
        steps,
        values,
        yerr=deviations if deviations.any() else None,
        color=_COLOURS[curve.colour],
        marker="o",
        markersize=4.5,
        capsize=2.5,
        linewidth=1.4,
        zorder=3,
    )


def _draw_band(axes: Axes, steps, values, curve: Curve) -> None:
    colour = _COLOURS[curve.colour]
    parts = np.array_split(np.arange(len(values)), min(len(values), _MOST_BINS))
    at = [steps[part].mean() for part in parts]
    if len(values) > len(parts):
        low, high = ([pick(values[part]) for part in parts] for pick in (np.min, np.max))
        axes.fill_between(at, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.plot(at, [values[part].mean() for part in parts], color=colour)
    if len(parts) == 1:
        axes.plot(at, values, "o", color=colour, markersize=4.5)


def _scale_log(axes: Axes, span: float) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_yscale("log")
    if span < 300:  # powers of ten alone would be too few
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def _for_the_page(svg: str) -> str:
    """The drawing alone, with the page's fonts and colours, and no identifier that another
    plot has too.
    """
    svg = svg[svg.index("<svg") :]
    box = re.search(r'viewBox="[^"]+"', svg)
    assert box is not None
    inner = svg[svg.index(">") + 1 : svg.rindex("</svg>")]
    inner = re.sub(r"<metadata>.*?</metadata>", "", inner, flags=re.S)
    inner = re.sub(r'<g id="[^"]*"', "<g", inner)
    inner = inner.replace("xlink:href", "href")
    inner = re.sub(r"font: ([\d.]+)px [^;\"]+", r"font-size: \1px", inner)
    for name, colour in _COLOURS.items():
        inner = inner.replace(colour, f"var(--{name})")
    inner = re.sub(r"\n\s*", "\n", inner)
    return f'<svg {box[0]} aria-hidden="true">{inner.strip()}</svg>'
