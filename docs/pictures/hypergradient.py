"""Draws docs/pictures/hypergradient.svg: a hypergradient on a problem with one theta and one psi.

python docs/pictures/hypergradient.py
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

from bilevel import hypergradient
from bilevel.solvers import Newton


def inner(theta, psi):  # the training data ask for 2, the weight decay for 0
    return (theta - 2) ** 2 / 2 + jnp.exp(psi) * theta**2 / 2


def outer(theta, psi):  # the validation data ask for 1.2
    return (theta - 1.2) ** 2


compute = jax.jit(jax.vmap(hypergradient(outer, inner, solver=Newton()), in_axes=(0, None)))
psi = jnp.linspace(-3, 2.5, 111)
curve = compute(psi, jnp.asarray(0.0))
lowest = jax.vmap(inner)(curve.theta, psi)
# Which of the 111 are marked, and where their slope is written.
marked = [(20, "tab:blue", (-1.75, 0.66)), (84, "tab:red", (-1.75, 0.92))]

settings = {
    "font.size": 13,
    "axes.titlesize": 13,
    "mathtext.fontset": "cm",
    "svg.hashsalt": "bilevel",
}
plt.rcParams.update(settings | {"axes.spines.top": False, "axes.spines.right": False})
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(10.8, 3.8), layout="constrained")

theta = jnp.linspace(-0.35, 2.6, 101)
left.plot(curve.theta, lowest, "--", color="0.45", label="the minima")
middle.plot(psi, curve.theta, color="0.45")
right.plot(psi, curve.value, color="0.45")
for number, (at, color, place) in enumerate(marked, 1):
    found = jax.tree.map(lambda leaf, at=at: float(leaf[at]), (psi, curve.theta, curve.value))
    (psi_at, theta_at, value_at), slope = found, float(curve.grad[at])
    name = rf"$\psi_{number}$"
    left.plot(
        theta,
        inner(theta, psi_at),
        color=color,
        label=f"{name} = {psi_at:.1f}".replace("-", "\N{MINUS SIGN}"),
    )
    for axes, x, y in (
        (left, theta_at, lowest[at]),
        (middle, psi_at, theta_at),
        (right, psi_at, value_at),
    ):
        axes.plot(x, y, "o", color=color, markersize=9, zorder=3)
    middle.annotate(
        rf"$\theta^*(\psi_{number})$",
        (psi_at, theta_at),
        (10, 6),
        color=color,
        textcoords="offset points",
    )
    along = jnp.array([-0.95, 0.95]) / (1 + abs(slope))
    right.plot(psi_at + along, value_at + slope * along, color=color, linewidth=3)
    right.text(
        *place, f"hypergradient:\nslope {slope:.2f}".replace("-", "\N{MINUS SIGN}"), color=color
    )
    for axes in (middle, right):
        axes.axvline(psi_at, color=color, linewidth=1, alpha=0.4)

left.set(
    title=r"1. The inner loss for two $\psi$",
    xlabel=r"$\theta$",
    ylabel=r"inner$(\theta, \psi)$",
    ylim=(0, 5.5),
)
left.legend(frameon=False, loc="upper left")
middle.set(
    title=r"2. Its minimum moves with $\psi$",
    xlabel=r"$\psi$, the log weight decay",
    ylabel=r"$\theta^*(\psi)$",
    ylim=(0, 2.2),
)
right.set(
    title="3. So does the outer loss there",
    xlabel=r"$\psi$, the log weight decay",
    ylabel=r"$F(\psi)$ = outer$(\theta^*(\psi), \psi)$",
    ylim=(-0.06, 1.2),
)
figure.savefig(Path(__file__).with_suffix(".svg"), metadata={"Date": None})
