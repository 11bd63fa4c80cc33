"""The settings of a run, typed: the command line is made from them, a run's folder holds them."""

import json
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import cattrs
import tyro
from cattrs.errors import ClassValidationError

MethodName = Literal["vig", "cig", "rig", "rcig", "frepo"]
Solve = Literal["exact", "adam"]
LinearSolver = Literal["auto", "cholesky", "cg"]
Precision = Literal["float32", "tensorfloat32", "bfloat16"]
Devices = int | Literal["all"]

# Settings that may stay open; the command line shows what is taken then.
T = TypeVar("T")
Open = Annotated[T | None, tyro.conf.arg(help_behavior_hint="")]
ByData = Annotated[T | None, tyro.conf.arg(help_behavior_hint="(default: by the data set)")]
Found = Annotated[T | None, tyro.conf.arg(help_behavior_hint="(default: found by itself)")]
AsDistilled = Annotated[T | None, tyro.conf.arg(help_behavior_hint="(default: as distilled)")]


@dataclass(frozen=True)
class EvaluationConfig:
    """How a distilled set is judged: networks trained from scratch on it, tested on held-out
    images.

    Attributes:
        networks: how many networks; mean and deviation are over them.
        steps: training steps; by default 1000 for up to 10 images, else 2000.
        learning_rate: Adam's highest rate, reached by a linear warm-up, then cosine to 1 %.
        warmup: steps of warm-up; at most half of all steps are.
        batch_size: the whole set up to this many images, else random batches of this size.
    """

    networks: int = 5
    steps: Open[int] = None
    learning_rate: float = 1e-4
    warmup: int = 500
    batch_size: int = 256

    def __post_init__(self) -> None:
        for name in ("networks", "steps", "batch_size"):
            if getattr(self, name) is not None:
                _at_least_one(f"evaluation.{name}", getattr(self, name))
        if self.warmup < 0:
            raise ValueError(f"evaluation.warmup={self.warmup} is negative: give 0 or more.")
        _positive("evaluation.learning_rate", self.learning_rate)


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
        iterations: meta-iterations.
        batch_size: real images in each of them.
        width: channels of the first convolution.
        depth: convolutions, each halving the image.
        padding: pixels added around the image in the first convolution (28 becomes 32 by 2).
        ridge_rate: ridge penalty divided by the number of distilled images.
        zca: whiten colour images.
        flip: double the distilled set by its mirror images.
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
        coreset_rate: AdaBelief's rate for images and labels.
        temperature_rate: and for the logarithm of the temperature.
        average_decay: of the moving average that is evaluated and released.
        pool_size: networks in the pool.
        pool_rate: Adam's rate in their training.
        pool_steps: training steps a network gets after its use: a random number from 1 to this.
        most_pool_steps: the age at which a network is replaced by a fresh one.
        devices: over how many the data, the distilled images and the pool are split; with several
            processes, all. A run may go on with another number.
        microbatch: images are run through the network in parts of this size, which is faster on a
            CPU, and takes less memory elsewhere; by default 32 on a CPU, and all at once elsewhere.
        curve_points: how often, evenly spaced, one network is trained for the learning curve.
        checkpoint_seconds: time between checkpoints.
        image_column: the data set's column of images.
        label_column: its column of labels.
        train_split: its split to distil.
        test_split: its split to evaluate on.
        resolution: resize and crop images to this many pixels.
        evaluation: how the result is judged.
    """

    dataset: str = "digits"
    ipc: int = 1
    method: MethodName = "rcig"
    out: Path = Path("runs/digits")
    seed: int = 0
    iterations: ByData[int] = None
    batch_size: ByData[int] = None
    width: ByData[int] = None
    depth: ByData[int] = None
    padding: ByData[int] = None
    ridge_rate: ByData[float] = None
    zca: ByData[bool] = None
    flip: ByData[bool] = None
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
    coreset_rate: float = 3e-3
    temperature_rate: float = 3e-2
    average_decay: float = 0.99
    pool_size: int = 30
    pool_rate: float = 5e-5
    pool_steps: int = 15
    most_pool_steps: int = 100
    devices: Devices = 1
    microbatch: Open[int] = None
    curve_points: int = 5
    checkpoint_seconds: float = 30.0
    image_column: Found[str] = None
    label_column: Found[str] = None
    train_split: Found[str] = None
    test_split: Found[str] = None
    resolution: Annotated[
        int | None, tyro.conf.arg(help_behavior_hint="(default: as they are)")
    ] = None
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        for name, known in (("method", MethodName), ("solve", Solve),
                            ("linear_solver", LinearSolver), ("precision", Precision)):  # fmt: skip
            if getattr(self, name) not in get_args(known):
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is not known: choose one of "
                    f"{', '.join(get_args(known))}."
                )
        for name in ("ipc", "pool_size", "pool_steps", "most_pool_steps", "adam_steps",
                     "max_cg_steps", "curve_points"):  # fmt: skip
            _at_least_one(name, getattr(self, name))
        for name in ("iterations", "batch_size", "width", "depth", "microbatch", "resolution",
                     "n_subset"):  # fmt: skip
            if getattr(self, name) is not None:
                _at_least_one(name, getattr(self, name))
        if self.devices != "all":
            _at_least_one("devices", self.devices)
        if not 0 <= self.average_decay < 1:
            raise ValueError(
                f"average_decay={self.average_decay} is not a decay: give 0 or more and below 1."
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
        width: channels of the first convolution.
        depth: convolutions, each halving the image.
        padding: pixels added around the image in the first convolution.
        flip: train on mirror images too.
        zca: for an .npz made elsewhere: whether its images are whitened.
        baseline: also judge random subsets of the same size, by the same recipe.
        seed: of the networks.
        evaluation: networks, steps, rates.
    """

    path: Annotated[Path, tyro.conf.Positional]
    dataset: Annotated[
        str | None, tyro.conf.arg(help_behavior_hint="(default: what the set says)")
    ] = None
    width: AsDistilled[int] = None
    depth: AsDistilled[int] = None
    padding: AsDistilled[int] = None
    flip: AsDistilled[bool] = None
    zca: Annotated[
        bool | None, tyro.conf.arg(help_behavior_hint="(default: colour images are)")
    ] = None
    baseline: bool = True
    seed: int = 0
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


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
    filled = {**_by_shape(image_shape, config.ipc * classes), **preset}
    iterations = filled.pop("iterations_by_ipc", {})
    filled["iterations"] = iterations.get(config.ipc, filled["iterations"])
    given = {name: value for name, value in filled.items() if getattr(config, name) is None}
    config = replace(config, **given)
    if config.evaluation.steps is None:
        steps = 1000 if config.ipc * classes <= 10 else 2000
        config = replace(config, evaluation=replace(config.evaluation, steps=steps))
    return config


_PRESETS: dict[str, dict[str, Any]] = {
    "digits": dict(width=64, depth=2, padding=0, batch_size=256, iterations=800),
    "mnist": dict(iterations_by_ipc={1: 15_000, 10: 10_000, 50: 5_000}),
    "fashion_mnist": dict(iterations_by_ipc={1: 15_000, 10: 10_000, 50: 5_000}),
    "cifar10": dict(iterations_by_ipc={1: 15_000, 10: 10_000, 50: 5_000}),
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
