"""RFAD: kernel ridge regression with the features of many random networks."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar

from bilevel import ridge_head

from .._problem import AbstractMethod, Batch, Coreset, MetaGradient, platt_loss
from .._running import compiled, join, part_size, slices
from ..networks import AbstractNetwork

Images = Float[Array, "n height width channels"]
Features = Float[Array, "n features"]


class RFAD(AbstractMethod):
    """Random feature approximation (Loo et al., "Efficient dataset distillation using random
    feature approximation", 2022, section 3 and equation 6 for the loss).

    The kernel of an infinitely wide network is estimated by the last hidden layers h_1 ... h_N of N
    fresh networks: K = (h_1 h_1^T + ... + h_N h_N^T) / N. With s the distilled images, t real ones,
    and predictions K_ts (K_ss + ridge I)^-1 y_s, what is minimised is the cross-entropy of the
    predictions divided by a learned temperature. The ridge is `ridge_rate` times the mean diagonal
    of K_ss.

    Settings are those of the paper and its code: 8 networks, 5,120 real images, a ridge rate of
    5e-3, AdaBelief at 1e-3, labels learned, networks without normalisation (theirs have 256
    channels in each layer).

    Attributes:
        networks: N.
        ridge_rate: ridge divided by the mean diagonal of the kernel.
        microbatch: real images go through the networks in parts of this size; None: all at once.
    """

    networks: int = eqx.field(default=8, static=True)
    ridge_rate: float = eqx.field(default=5e-3, static=True)
    microbatch: int | None = eqx.field(default=None, static=True)

    trains_pool = False

    @property
    def fresh_networks(self) -> int:
        return self.networks

    def objective(self, coreset: Coreset, batch: Batch) -> Scalar:
        """What is minimised, as a function of the coreset."""
        real = self.of_real(batch)
        return _regress(self, coreset, batch.fresh, real, batch.targets)[0]

    def gradient(self, coreset: Coreset, batch: Batch) -> MetaGradient:
        real = self.of_real(batch)
        (value, predictions), grad = _value_and_grad(
            self, coreset, batch.fresh, real, batch.targets
        )
        return MetaGradient(value=value, direct=grad, predictions=predictions)

    def of_real(self, batch: Batch) -> Features:
        """The features of the real images."""
        if batch.fresh is None:
            raise ValueError("fresh of the batch is None, and rfad's features are theirs: give it.")
        size = part_size(batch.network, batch.images, self.microbatch, holds=float(self.networks))
        return join([_features(batch.fresh, part) for part in slices(batch.images, size)])

    @classmethod
    def presets(cls: Any, dataset: str, ipc: int) -> Any:
        short = {} if dataset == "digits" else {"iterations": 10_000, "batch_size": 5_120}
        return short | dict(
            pool_size=1, ridge_rate=5e-3, coreset_optimiser="adabelief", coreset_rate=1e-3,
            coreset_decay=1.0,
        )  # fmt: skip


def _features_of(networks: AbstractNetwork, images: Images) -> Features:
    """Those of all networks side by side, so that their inner products are the mean kernel."""

    def of(network):
        return network.features(images)

    found = eqx.filter_vmap(of)(networks)
    count, n, width = found.shape
    return found.swapaxes(0, 1).reshape(n, count * width) / count**0.5


_features = compiled(_features_of)


def _regress(method: RFAD, coreset: Coreset, networks, real: Features, targets):
    images, labels = coreset.support()
    h = _features_of(networks, images)
    ridge = method.ridge_rate * jnp.sum(h**2) / h.shape[0]
    predictions = ridge_head(h, labels, ridge)(real)
    return platt_loss(predictions, targets, coreset.log_temperature), predictions


@compiled
def _value_and_grad(method: RFAD, coreset: Coreset, networks, real, targets):
    def loss(coreset):
        return _regress(method, coreset, networks, real, targets)

    return eqx.filter_value_and_grad(loss, has_aux=True)(coreset)
