"""Membership inference: does a network tell which images its training data were made from?"""

import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._artifacts import (
    AttackedNetwork,
    AttackResults,
    AttackSettings,
    DistilledSet,
    RunFolder,
)
from .._config import AttackConfig, Kind, RunConfig
from .._engine import judging_maker, load_data
from .._problem import Coreset, centred_one_hot, choose_per_class
from .._running import Reporter, part_size, portions
from ..data import ImageData
from ..networks import AbstractNetwork
from ._evaluation import train_network
from ._judge import match_classes

ATTACKS = ("threshold", "logistic_regression", "mlp", "random_forest", "nearest_neighbours")


def attack(asked: AttackConfig, reporter: Reporter | None = None) -> AttackResults:
    """Try to tell the images that a run distilled from held-out ones, by what networks answer.

    Networks are trained by the run's evaluation recipe (a) on the distilled set, (b) on a random
    subset of the same size, a new one for each network, (c) on all real images that the run saw,
    or by some of the three (`trained_on`).
    Five attackers then see a network's outputs on those images (members) and on as many held-out
    ones, and are judged by their AUC: 0.5 is guessing, 1 is knowing. Section 4.5 and appendix B of
    the RCIG paper, table 5.

    Each network's figures are written to `attack.json` in the run's folder as they come, and an
    attack that was stopped goes on from there.

    Returns:
        The test accuracy and the AUC of each attacker, for each network.

    Raises:
        ValueError: no finished run is there, or its `attack.json` has other settings.
    """
    folder = RunFolder(asked.path)
    config = folder.read_config()
    if not folder.distilled.exists():
        raise ValueError(
            f"path={str(asked.path)!r} holds a run that is not finished: run it to its end."
        )
    lock = folder.lock_attack()
    try:
        return _attack(asked, folder, config, reporter or Reporter())
    finally:
        if lock is not None:
            lock.release()


def _attack(
    asked: AttackConfig, folder: RunFolder, config: RunConfig, reporter: Reporter
) -> AttackResults:
    distilled = folder.read_distilled()
    evaluation = config.evaluation
    steps = asked.steps or evaluation.steps
    real_steps = asked.real_steps or steps
    data = load_data(config)
    distilled = match_classes(distilled, data, reporter.say)
    count = min(len(data.train_labels), len(data.test_labels))
    _check_enough(count)
    settings = AttackSettings(
        real_images=len(data.train_labels),
        members=count,
        network=evaluation.network,
        norm=evaluation.norm or config.norm,
        steps=steps,
        real_steps=real_steps,
        seed=asked.seed,
    )
    results = _begun(folder, settings)
    kinds = tuple(dict.fromkeys(asked.trained_on))
    done = sum(len(results.of(kind)) for kind in kinds)
    reporter.begin("attacking", max(done, len(kinds) * asked.repeats), done)
    scene = _Scene(config, data, distilled, asked.seed, count)
    for i in range(asked.repeats):
        for kind in kinds:
            if i < len(results.of(kind)):
                continue
            network = scene.train(kind, real_steps if kind == "real_data" else steps, i)
            found = scene.attack(network, i)
            results = results.with_one_more(kind, found)
            folder.keep_attack(results)
            reporter.advance(1, accuracy=found.test_accuracy)
    reporter.end()
    return results


def _begun(folder: RunFolder, settings: AttackSettings) -> AttackResults:
    """What an earlier attack with these settings left."""
    results = folder.read_attack()
    if results is None:
        return AttackResults(settings)
    found = asdict(results.settings)
    different = [
        f"{name} is {found[name]!r} there and {value!r} here"
        for name, value in asdict(settings).items()
        if found[name] != value
    ]
    if different:
        raise ValueError(
            f"{str(folder.attack)!r} holds an attack with other settings "
            f"({'; '.join(different)}): give the same to go on with it, or move it away."
        )
    return results


class _Scene:
    """The images that networks are trained on, and those that they are asked about."""

    def __init__(
        self, config: RunConfig, data: ImageData, distilled: DistilledSet, seed: int, count: int
    ):
        self.config, self.data, self.distilled, self.seed = config, data, distilled, seed
        self.count = count
        self.members = jnp.asarray(distilled.preprocessor(data.train_images))
        self.others = jnp.asarray(distilled.preprocessor(data.test_images))

    def train(self, kind: Kind, steps: int | None, number: int) -> AbstractNetwork:
        """Network `number` on the distilled set, a random subset or the real data; those of one
        number begin with the same weights.
        """
        data, distilled, config = self.data, self.distilled, self.config
        if kind == "distilled":
            images, labels = jnp.asarray(distilled.images), distilled.labels
            if config.evaluation.labels == "hard":
                labels = centred_one_hot(labels.argmax(1), data.classes)
        elif kind == "random_subset":
            rng = np.random.default_rng([self.seed, 4, number])
            rows = choose_per_class(data.train_labels, data.classes, config.ipc, rng)
            images = self.members[rows]
            labels = centred_one_hot(data.train_labels[rows], data.classes)
        else:
            images, labels = self.members, centred_one_hot(data.train_labels, data.classes)
        coreset = Coreset(images, jnp.asarray(labels), jnp.zeros(()), distilled.flip)
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(self.seed), 5), number)
        recipe = replace(config.evaluation, steps=steps, select=False)
        maker = judging_maker(config, data.image_shape, data.classes)
        return train_network(*coreset.support(), maker, recipe, key)

    def attack(self, network: AbstractNetwork, number: int) -> AttackedNetwork:
        """The AUC of each attacker, and the network's test accuracy."""
        members = features(_outputs(network, self.members), self.data.train_labels)
        outputs = _outputs(network, self.others)
        others = features(outputs, self.data.test_labels)
        rng = np.random.default_rng([self.seed, 5, number])
        members, others = (rng.permutation(one)[: self.count] for one in (members, others))
        auc = {name: membership_auc(name, members, others, self.seed) for name in ATTACKS}
        right = outputs.argmax(1) == self.data.test_labels
        return AttackedNetwork(float(right.mean()), auc)


def features(
    outputs: Float[np.ndarray, "n classes"], labels: Int[np.ndarray, " n"]
) -> Float[np.ndarray, "n classes+1"]:
    """What an attacker sees of each image: the outputs, largest first, and last the squared error
    on its true label.
    """
    targets = centred_one_hot(labels, outputs.shape[1])
    loss = 0.5 * np.square(outputs - targets).sum(1, keepdims=True)
    return np.concatenate([-np.sort(-outputs, axis=1), loss], axis=1)


def membership_auc(
    name: str,
    members: Float[np.ndarray, "m features"],
    others: Float[np.ndarray, "n features"],
    seed: int = 0,
) -> float:
    """Area under the curve of an attacker's hits against its false alarms.

    `threshold` calls an image a member where the loss, the last feature, is small. The others are
    trained on one half of both kinds and judged on the other half, then the other way round; the
    AUC is the mean of the two.

    Raises:
        ValueError: an unknown attacker, or too few images to learn from.
    """
    from sklearn.metrics import roc_auc_score

    if name not in ATTACKS:
        raise ValueError(f"attack {name!r} is not known: choose one of {', '.join(ATTACKS)}.")
    _check_enough(min(len(members), len(others)))
    seen = np.concatenate([members, others])
    is_member = np.repeat([1, 0], [len(members), len(others)])
    if name == "threshold":
        return float(roc_auc_score(is_member, -seen[:, -1]))
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import StratifiedKFold

    found = []
    for train, test in StratifiedKFold(2, shuffle=True, random_state=seed).split(seen, is_member):
        attacker = _ATTACKERS[name](seed)
        with warnings.catch_warnings():  # an attacker that could be better is one all the same
            warnings.simplefilter("ignore", ConvergenceWarning)
            attacker.fit(seen[train], is_member[train])
        found.append(roc_auc_score(is_member[test], attacker.predict_proba(seen[test])[:, 1]))
    return float(np.mean(found))


def _check_enough(count: int) -> None:
    if count < 20:
        raise ValueError(
            f"{count} members and as many held-out images are too few to attack: give a run whose "
            "data set has 20 training and 20 test images or more."
        )


def _logistic_regression(seed: int) -> Any:
    from sklearn.linear_model import LogisticRegression

    return _scaled(LogisticRegression(max_iter=1000, random_state=seed))


def _mlp(seed: int) -> Any:
    from sklearn.neural_network import MLPClassifier

    return _scaled(MLPClassifier((64,), early_stopping=True, max_iter=500, random_state=seed))


def _random_forest(seed: int) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(min_samples_leaf=5, random_state=seed)


def _nearest_neighbours(seed: int) -> Any:
    from sklearn.neighbors import KNeighborsClassifier

    return _scaled(KNeighborsClassifier(15))


def _scaled(attacker: Any) -> Any:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), attacker)


_ATTACKERS: dict[str, Callable[[int], Any]] = {
    "logistic_regression": _logistic_regression,
    "mlp": _mlp,
    "random_forest": _random_forest,
    "nearest_neighbours": _nearest_neighbours,
}


def _outputs(
    network: AbstractNetwork, images: Float[Array, "n height width channels"]
) -> Float[np.ndarray, "n classes"]:
    size = part_size(network, images, 250) or 250
    return np.concatenate([np.asarray(_answer(network, part)) for part in portions(images, size)])


@eqx.filter_jit
def _answer(network, images):
    return network(images)
