"""The settings of a run, typed: the command line is made from them, a run's folder holds them."""

import json
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import cattrs
import tyro
from cattrs.errors import ClassValidationError

from .networks import NetworkName, NormName

MethodName = Literal["vig", "cig", "rig", "rcig", "frepo"]
Solve = Literal["exact", "adam"]
Init = Literal["real", "noise", "kmeans"]
LinearSolver = Literal["auto", "cholesky", "cg"]
Precision = Literal["float32", "tensorfloat32", "bfloat16"]
Storage = Literal["auto", "floats", "bytes", "host"]
Devices = int | Literal["all"]
LabelName = Literal["soft", "hard"]

# Settings that may stay open; the command line shows what is taken then.
T = TypeVar("T")
Open = Annotated[T | None, tyro.conf.arg(help_behavior_hint="")]
ByData = Annotated[T | None, tyro.conf.arg(help_behavior_hint="(default: by the data set)")]
Found = Annotated[T | None, tyro.conf.arg(help_behavior_hint="(default: found by itself)")]
BySolve = Annotated[T | None, tyro.conf.arg(help_behavior_hint="(default: by solve)")]
AsDistilled = Annotated[T | None, tyro.conf.arg(help_behavior_hint="(default: as distilled)")]
ByNetwork = Annotated[T | None, tyro.conf.arg(help_behavior_hint="(default: by the network)")]


@dataclass(frozen=True)
class EvaluationConfig:
    """How a distilled set is judged: networks trained from scratch on it, tested on held-out
    images.

    Attributes:
        repeats: how many networks; mean and deviation are over them.
        network: convnet, resnet18, vgg11 or alexnet.
        norm: its normalisation.
        width: channels of its first convolution; by default a ConvNet's is that of the network
            that distils, and the others have their usual ones.
        augment: train on randomly changed images, anew in each step.
        labels: soft (those of the set), or hard (one-hot at the largest of them, centred).
        steps: training steps; by default 1000 for up to 10 images, else 2000.
        learning_rate: Adam's highest rate, reached by a linear warm-up, then cosine to 1 %; by
            default 3e-4 for resnet18, else 1e-4.
        warmup: steps of warm-up; at most half of all steps are.
        batch_size: the whole set up to this many images, else random batches of this size.
    """

    repeats: int = 5
    network: NetworkName = "convnet"
    norm: AsDistilled[NormName] = None
    width: ByNetwork[int] = None
    augment: bool = False
    labels: LabelName = "soft"
    steps: Open[int] = None
    learning_rate: ByNetwork[float] = None
    warmup: int = 500
    batch_size: int = 256

    def __post_init__(self) -> None:
        _one_of("evaluation.network", self.network, NetworkName)
        if self.norm is not None:
            _one_of("evaluation.norm", self.norm, NormName)
        _check_training(self, "evaluation.")


@dataclass(frozen=True)
class RunConfig:
    """What to distil, and how. Settings that are None come from the data set.

    Attributes:
        dataset: digits, mnist, fashion_mnist, cifar10, or any data set with images and labels: a
            hub name or a local folder.
        ipc: distilled images per class.
        method: RCIG, or one of those that it is built from.
        out: the run's folder; a run that is there goes on.
        seed: of everything random.
        init: what distilled images begin as: random real images, noise, or the real images nearest
            to the centres of each class by k-means in the features of a random network.
        iterations: meta-iterations.
        batch_size: real images in each of them.
        width: channels of the first convolution.
        depth: convolutions, each halving the image.
        padding: pixels added around the image in the first convolution (28 becomes 32 by 2).
        norm: the network's normalisation: none, batch (by the statistics of the distilled images,
            which are held fixed in a meta-gradient), instance, group (of 32) or layer.
        ridge_rate: ridge penalty divided by the number of distilled images.
        zca: whiten colour images.
        flip: double the distilled set by its mirror images.
        augment: change the distilled images at random in each meta-gradient.
        smooth: softplus(60 x)/60 instead of ReLU while distilling.
        solve: exact (linear algebra) or adam (the paper's way, rates tuned at the start).
        linear_solver: of the exact way: cholesky, cg (conjugate gradients), or auto, by size.
        tolerance: relative error of the meta-gradient that conjugate gradients aim at.
        max_cg_steps: and their greatest number.
        float64: factorise in float64.
        n_subset: derivatives with respect to the distilled images go through so many of them, drawn
            anew in each meta-iteration (the gradient stays unbiased).
        remat: keep no activations of the distilled images; less memory, half as many
            operations again in a product.
        precision: of convolutions and matrix products on an accelerator; the small solves stay at
            the highest.
        adam_steps: Adam's steps, in the inner problem and in the adjoint.
        clip_implicit: clip the implicit gradient, leaf by leaf, to the norm of the direct one.
        coreset_rate: AdaBelief's rate for images and labels; by default 3e-2 where the solve is
            exact, and the paper's 3e-3 elsewhere.
        coreset_decay: what is left of that rate at the end, after a cosine; by default 0.1 where
            the solve is exact, and 1 (a constant rate) elsewhere.
        temperature_rate: and for the logarithm of the temperature.
        average_decay: of the moving average that is evaluated and released.
        pool_size: networks in the pool.
        pool_rate: Adam's rate in their training.
        pool_steps: training steps a network gets after its use: a random number from 1 to this.
        most_pool_steps: the age at which a network is replaced by a fresh one.
        devices: over how many the data, the distilled images and the pool are split; with several
            processes, all. A run may go on with another number.
        storage: where training images are kept: floats (preprocessed, on the device), bytes (a
            quarter of that, preprocessed in each meta-iteration), host (bytes in main memory, the
            next batch sent while a meta-iteration runs), or auto, by their size.
        microbatch: images are run through the network in parts of this size, which is faster on a
            CPU, and takes less memory elsewhere; by default 32 on a CPU, and all at once elsewhere.
        curve_points: how often, evenly spaced, one network is trained for the learning curve.
        checkpoint_seconds: time between checkpoints.
        image_column: the data set's column of images.
        label_column: its column of labels.
        train_split: its split to distil.
        test_split: its split to evaluate on.
        samples: only so many training images, a class-balanced part drawn from the seed, are seen.
        resolution: resize and crop images to this many pixels.
        evaluation: how the result is judged.
    """

    dataset: str = "digits"
    ipc: int = 1
    method: MethodName = "rcig"
    out: Path = Path("runs/digits")
    seed: int = 0
    init: Init = "real"
    iterations: ByData[int] = None
    batch_size: ByData[int] = None
    width: ByData[int] = None
    depth: ByData[int] = None
    padding: ByData[int] = None
    norm: NormName = "none"
    ridge_rate: ByData[float] = None
    zca: ByData[bool] = None
    flip: ByData[bool] = None
    augment: bool = False
    smooth: ByData[bool] = None
    solve: Solve = "exact"
    linear_solver: LinearSolver = "auto"
    tolerance: float = 1e-2
    max_cg_steps: int = 64
    float64: bool = False
    n_subset: Open[int] = None
    remat: bool = False
    precision: Precision = "float32"
    adam_steps: int = 20
    clip_implicit: bool = True
    coreset_rate: BySolve[float] = None
    coreset_decay: BySolve[float] = None
    temperature_rate: float = 3e-2
    average_decay: float = 0.99
    pool_size: int = 30
    pool_rate: float = 5e-5
    pool_steps: int = 15
    most_pool_steps: int = 100
    devices: Devices = 1
    storage: Storage = "auto"
    microbatch: Open[int] = None
    curve_points: int = 5
    checkpoint_seconds: float = 30.0
    image_column: Found[str] = None
    label_column: Found[str] = None
    train_split: Found[str] = None
    test_split: Found[str] = None
    samples: Annotated[int | None, tyro.conf.arg(help_behavior_hint="(default: all)")] = None
    resolution: Annotated[
        int | None, tyro.conf.arg(help_behavior_hint="(default: as they are)")
    ] = None
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        for name, known in (("method", MethodName), ("solve", Solve), ("norm", NormName),
                            ("linear_solver", LinearSolver), ("precision", Precision),
                            ("storage", Storage), ("init", Init)):  # fmt: skip
            _one_of(name, getattr(self, name), known)
        for name in ("ipc", "pool_size", "pool_steps", "most_pool_steps", "adam_steps",
                     "max_cg_steps", "curve_points"):  # fmt: skip
            _at_least_one(name, getattr(self, name))
        for name in ("iterations", "batch_size", "width", "depth", "microbatch", "resolution",
                     "n_subset", "samples"):  # fmt: skip
            if getattr(self, name) is not None:
                _at_least_one(name, getattr(self, name))
        if self.devices != "all":
            _at_least_one("devices", self.devices)
        if not 0 <= self.average_decay < 1:
            raise ValueError(
                f"average_decay={self.average_decay} is not a decay: give 0 or more and below 1."
            )
        if self.coreset_decay is not None and not 0 < self.coreset_decay <= 1:
            raise ValueError(
                f"coreset_decay={self.coreset_decay} is not a share: give above 0 and at most 1."
            )
        if self.padding is not None and self.padding < 0:
            raise ValueError(f"padding={self.padding} is negative: give 0 or more.")
        for name in ("ridge_rate", "tolerance", "coreset_rate", "temperature_rate", "pool_rate"):
            if getattr(self, name) is not None:
                _positive(name, getattr(self, name))


@dataclass(frozen=True)
class EvaluateConfig:
    """Train networks from scratch on a distilled set and test them on held-out images.

    Settings that are None come from the set itself, or from its data set.

    Attributes:
        path: a run's folder, an exported folder, or an .npz made elsewhere (images, labels).
        dataset: where the held-out images come from.
        network: convnet, resnet18, vgg11, alexnet, or several of them.
        norm: their normalisation, or several: none, batch, instance, group, layer.
        width: channels of the first convolution; by default a ConvNet's is as distilled, and the
            others have their usual ones.
        depth: of a ConvNet: convolutions, each halving the image.
        padding: pixels added around the image in the first convolution.
        flip: train on mirror images too.
        zca: for an .npz made elsewhere: whether its images are whitened.
        augment: train on randomly changed images, anew in each step.
        labels: soft (those of the set), or hard (one-hot at the largest of them, centred).
        repeats: how many networks of each kind; mean and deviation are over them.
        steps: training steps; by default 1000 for up to 10 images, else 2000.
        learning_rate: Adam's highest rate, reached by a linear warm-up, then cosine to 1 %; by
            default 3e-4 for resnet18, else 1e-4.
        warmup: steps of warm-up; at most half of all steps are.
        batch_size: the whole set up to this many images, else random batches of this size.
        baseline: also judge random subsets of the same size, by the same recipe.
        ranking: also the two scores of DD-Ranking, and the accuracies that they are made of.
        full_steps: training steps on the whole training set, for the ranking; by default as many
            as on the distilled one.
        seed: of the networks.
    """

    path: Annotated[Path, tyro.conf.Positional]
    dataset: Annotated[
        str | None, tyro.conf.arg(help_behavior_hint="(default: what the set says)")
    ] = None
    network: tuple[NetworkName, ...] = ("convnet",)
    norm: Annotated[
        tuple[NormName, ...], tyro.conf.arg(help_behavior_hint="(default: as distilled)")
    ] = ()
    width: ByNetwork[int] = None
    depth: AsDistilled[int] = None
    padding: AsDistilled[int] = None
    flip: AsDistilled[bool] = None
    zca: Annotated[
        bool | None, tyro.conf.arg(help_behavior_hint="(default: colour images are)")
    ] = None
    augment: bool = False
    labels: LabelName = "soft"
    repeats: int = 5
    steps: Open[int] = None
    learning_rate: ByNetwork[float] = None
    warmup: int = 500
    batch_size: int = 256
    baseline: bool = True
    ranking: bool = False
    full_steps: Open[int] = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.network:
            raise ValueError("network=() names none: give e.g. convnet.")
        for name, known in (("network", NetworkName), ("norm", NormName)):
            for value in getattr(self, name):
                _one_of(name, value, known)
        _check_training(self)
        if self.full_steps is not None:
            _at_least_one("full_steps", self.full_steps)

    def evaluations(self) -> list[EvaluationConfig]:
        """One for each network with each normalisation."""
        names = ("repeats", "width", "augment", "labels", "steps", "learning_rate", "warmup",
                 "batch_size")  # fmt: skip
        shared = {name: getattr(self, name) for name in names}
        return [
            EvaluationConfig(network=network, norm=norm, **shared)
            for network in self.network
            for norm in self.norm or (None,)
        ]


@dataclass(frozen=True)
class AttackConfig:
    """Try to tell the images that a run distilled from held-out ones (membership inference).

    Attributes:
        path: a run's folder.
        repeats: networks on the distilled set, on random subsets and on the real images, each.
        steps: their training steps; by default those of the run's evaluation.
        real_steps: of those on the real images; by default as many.
        seed: of the networks and the attackers.
    """

    path: Annotated[Path, tyro.conf.Positional]
    repeats: int = 5
    steps: Open[int] = None
    real_steps: Open[int] = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("repeats", "steps", "real_steps"):
            if getattr(self, name) is not None:
                _at_least_one(name, getattr(self, name))


def _check_training(config: EvaluationConfig | EvaluateConfig, prefix: str = "") -> None:
    _one_of(f"{prefix}labels", config.labels, LabelName)
    for name in ("repeats", "steps", "batch_size", "width"):
        if getattr(config, name) is not None:
            _at_least_one(prefix + name, getattr(config, name))
    if config.warmup < 0:
        raise ValueError(f"{prefix}warmup={config.warmup} is negative: give 0 or more.")
    if config.learning_rate is not None:
        _positive(f"{prefix}learning_rate", config.learning_rate)


def _one_of(name: str, value: Any, known: Any) -> None:
    if value not in get_args(known):
        raise ValueError(
            f"{name}={value!r} is not known: choose one of {', '.join(get_args(known))}."
        )


def _positive(name: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise ValueError(f"{name}={value} is not positive: give e.g. 1e-3.")


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name}={value} is too small: give 1 or more.")


def resolve(config: RunConfig, image_shape: tuple[int, int, int], classes: int = 10) -> RunConfig:
    """The config with every open setting filled in, from the data set's preset, the shape of its
    images and its number of classes.
    """
    preset = _PRESETS.get(config.dataset, {})
    filled = {**_by_shape(image_shape, config.ipc * classes), **_RATES[config.solve], **preset}
    for name in ("iterations", "n_subset"):
        by_ipc = filled.pop(f"{name}_by_ipc", {})
        filled[name] = by_ipc.get(config.ipc, filled.get(name))
    given = {name: value for name, value in filled.items() if getattr(config, name) is None}
    config = replace(config, **given)
    evaluation = config.evaluation
    rate = 3e-4 if evaluation.network == "resnet18" else 1e-4
    evaluation = replace(
        evaluation,
        steps=evaluation.steps or (1000 if config.ipc * classes <= 10 else 2000),
        learning_rate=evaluation.learning_rate or rate,
    )
    return replace(config, evaluation=evaluation)


_RATES: dict[Solve, dict[str, float]] = {
    "exact": dict(coreset_rate=3e-2, coreset_decay=0.1),
    "adam": dict(coreset_rate=3e-3, coreset_decay=1.0),
}
"""Of the coreset's optimiser: those of the paper are for its own way."""

_SMALL = dict(iterations_by_ipc={1: 15_000, 10: 10_000, 50: 5_000})
_LARGE = dict(iterations_by_ipc={1: 6_000, 10: 3_000})
_PRESETS: dict[str, dict[str, Any]] = {
    "digits": dict(width=64, depth=2, padding=0, batch_size=256, iterations=500),
    "mnist": _SMALL,
    "fashion_mnist": _SMALL,
    "cifar10": _SMALL,
    "cifar100": dict(
        iterations_by_ipc={1: 10_000, 10: 5_000, 50: 4_000}, n_subset_by_ipc={50: 2_000}
    ),
    "tiny_imagenet": dict(iterations_by_ipc={1: 5_000, 10: 2_000}, n_subset_by_ipc={10: 500}),
    "cub200": dict(iterations_by_ipc={1: 10_000, 10: 2_000}),
    "imagenette": _LARGE,
    "imagewoof": _LARGE,
    "imagenet64": dict(iterations_by_ipc={1: 2_000, 2: 2_000}, n_subset_by_ipc={1: 500, 2: 500}),
}
"""Settings of the RCIG paper (table 7, appendix C) where it has the data set."""


def _by_shape(image_shape: tuple[int, int, int], n: int) -> dict[str, Any]:
    height, _, channels = image_shape
    depth = 3 if height < 64 else 4 if height < 128 else 5
    colour = channels == 3
    return dict(
        iterations=5_000,
        batch_size=1024,
        width=128,
        depth=depth,
        padding=2 if (height == 28 and not colour) else 0,
        ridge_rate={3: 5e-4, 4: 5e-3, 5: 5e-2}[depth],
        zca=colour,
        flip=colour and n <= 1000,
        smooth=depth == 3,
    )


def to_json(config: RunConfig) -> str:
    """Readable, and enough to run it again."""
    return json.dumps({**asdict(config), "out": str(config.out)}, indent=2) + "\n"


def from_json(text: str, where: Path) -> RunConfig:
    """The config that a run's folder holds.

    Raises:
        ValueError: a setting that is unknown or of another type.
    """
    converter = cattrs.Converter(forbid_extra_keys=True)
    converter.register_structure_hook(Path, lambda value, _: Path(value))
    converter.register_structure_hook(
        Devices, lambda value, _: value if value == "all" else int(value)
    )
    try:
        return converter.structure(json.loads(text), RunConfig)
    except (ClassValidationError, json.JSONDecodeError) as error:
        reason = str(error)
        if isinstance(error, ClassValidationError):
            reason = "; ".join(cattrs.transform_error(error, format_exception=_say))
        raise ValueError(
            f"{where} is not a run's config ({reason}): restore it, or give another --out."
        ) from error


def _say(error: BaseException, kind: Any) -> str:
    """What cattrs says, and what a setting's own check says."""
    if type(error) is ValueError and "give" in str(error):
        return str(error)
    return cattrs.v.format_exception(error, kind)


def differences(asked: RunConfig, found: RunConfig) -> list[str]:
    """Settings in which two configs differ, `out`, the time between checkpoints and the devices
    aside."""
    return [
        f"{f.name} is {getattr(found, f.name)!r} there and {getattr(asked, f.name)!r} here"
        for f in fields(asked)
        if f.name not in ("out", "checkpoint_seconds", "devices")
        and getattr(asked, f.name) != getattr(found, f.name)
    ]
