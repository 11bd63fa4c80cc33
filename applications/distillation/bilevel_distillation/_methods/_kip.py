"""KIP: kernel ridge regression with the tangent kernel of a random network."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Scalar

from .._output_space import tangent_kernel
from .._problem import RCIG, Batch, Coreset, MetaGradient, squared_error


class KIP(RCIG):
    """Kernel inducing points (Nguyen, Chen and Lee, "Dataset meta-learning from kernel
    ridge-regression", 2021, equation 7; Nguyen et al., "Dataset distillation with infinitely wide
    convolutional networks", 2021): with s the distilled images, t real ones, y labels,

        1/2 mean over t of | y_t - K_ts (K_ss + ridge I)^-1 y_s |^2 .

    K is the tangent kernel of a network of finite width, fresh in each step, in place of that of
    an infinitely wide one: K = J J^T + h h^T, with J the Jacobian of all outputs in the body's
    parameters and h the last hidden layer. K_ss has a row for each output of each image.

    That regression is the solution of RCIG's inner problem at such a network, and so its derivative
    is RCIG's, direct and implicit part together: by Cholesky while K_ss is small, else by conjugate
    gradients to the run's tolerance. The ridge is the run's `ridge_rate` times the number of
    distilled images, where the papers have 1e-6 times the mean diagonal of K. Adam at 1e-2, labels
    learned, as in the papers; their batch of real images is 5,000.
    """

    margin: bool = eqx.field(default=False, static=True)

    trains_pool = False

    def objective(self, coreset: Coreset, batch: Batch) -> Scalar:
        """What is minimised, as a function of the coreset."""
        images, labels = coreset.support()
        system, across = tangent_kernel(
            self, batch.network, images, batch.images, labels.shape[1], self.ridge(coreset)
        )
        found = across(system.solve(labels, 0.0, 0).x)
        return self.loss(found, batch.targets, coreset)

    def gradient(self, coreset: Coreset, batch: Batch) -> MetaGradient:
        found = super().gradient(coreset, batch)
        return MetaGradient(
            value=found.value,
            direct=found.grad,
            predictions=found.predictions,
            measured=found.measured,
        )

    def loss(self, predictions: Array, targets: Array, coreset: Coreset) -> Scalar:
        return squared_error(predictions, targets - jnp.mean(targets, 1, keepdims=True))

    @classmethod
    def presets(cls: Any, dataset: str, ipc: int) -> Any:
        short = {} if dataset == "digits" else {"iterations": 5_000}
        return short | dict(
            pool_size=1, coreset_optimiser="adam", coreset_rate=1e-2, coreset_decay=1.0
        )
