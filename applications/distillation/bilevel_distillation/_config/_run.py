"""The settings of a run."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from ..networks import NormName, check_name
from ._checks import at_least_one, not_negative, one_of, positive
from ._evaluation import EvaluationConfig
from ._types import (
    METHOD_GROUP,
    METHOD_NAMES,
    ByData,
    ByMethod,
    BySolve,
    Devices,
    Found,
    LinearSolver,
    Method,
    Open,
    Optimiser,
    Precision,
    Solve,
    Storage,
)


@dataclass(frozen=True)
class RunConfig:
    """What to distil, and how. Settings that are None come from the data set.

    Attributes:
        dataset: digits, mnist, fashion_mnist, cifar10, or any data set with images and labels: a
            hub name or a local folder.
        ipc: distilled images per class.
        method: RCIG or one of those that it is built from (vig, cig, rig, frepo); another system
            (dm, dc, dsa, kip, rfad, bptt, mtt); chosen real images (random, herding, k-center,
            el2n); one that another package brings, or a class of your own, package.module:Class.
        out: the run's folder; a run that is there goes on.
        seed: of everything random.
        init: what distilled images begin as: real (random real images), noise, kmeans (the real
            images nearest to the centres of each class by k-means in the features of a random
            network), or the path of a set made before: a run's folder, an exported one, an .npz.
            What that set says of its preprocessing and mirror images holds for the run.
        iterations: meta-iterations; with 0 the set is what it begins as.
        batch_size: real images in each of them.
        width: channels of the first convolution.
        depth: convolutions, each halving the image.
        padding: pixels added around the image in the first convolution (28 becomes 32 by 2).
        norm: the network's normalisation: none, batch (by the statistics of the distilled images,
            which are held fixed in a meta-gradient), instance, group (of 32) or layer.
        ridge_rate: ridge penalty divided by the number of distilled images.
        zca: whiten colour images.
        flip: double the distilled set by its mirror images; by default that of colour images known
            to allow it (not a set of your own), up to 1000 of them.
        augment: change the distilled images at random in each meta-gradient.
        smooth: softplus(60 x)/60 instead of ReLU while distilling.
        solve: linear (two linear solves, to a tolerance) or adam (the paper's way, rates tuned at
            the start). VIG and RIG, whose inner problem is not quadratic, have it trained by Adam
            in both, and with linear solve the adjoint by conjugate gradients.
        linear_solver: of the linear way: cholesky, cg (conjugate gradients), or auto, by size.
        rtol: of CIG and RCIG: the relative error of a solve, estimated, at which conjugate
            gradients stop.
        adjoint_rtol: of VIG and RIG: the relative residual of the adjoint at which they stop.
        cg_max_steps: at most so many conjugate gradients in a solve.
        float64: factorise in float64.
        n_subset: derivatives with respect to the distilled images go through so many of them, drawn
            anew in each meta-iteration (the gradient stays unbiased).
        remat: keep no activations of the distilled images; less memory, half as many
            operations again in a product.
        precision: of convolutions and matrix products on an accelerator; the small solves stay at
            the highest.
        adam_steps: exactly so many of Adam, in the inner problem and in the adjoint.
        clip_implicit: clip the implicit gradient, leaf by leaf, to the norm of the direct one.
        coreset_optimiser: of images and labels: adabelief, adam, or sgd (with momentum 0.5); the
            temperature always has AdaBelief.
        coreset_rate: its rate for images and labels; by default the method's own, else 3e-2 where
            the solve is linear, and the paper's 3e-3 elsewhere.
        coreset_decay: what is left of that rate at the end, after a cosine; by default 0.1 where
            the solve is linear, and 1 (a constant rate) elsewhere.
        temperature_rate: its rate for the logarithm of the temperature.
        average_decay: of the moving average that is evaluated and released.
        pool_size: networks in the pool.
        pool_rate: Adam's rate in their training.
        pool_steps: training steps a network gets after its use: a random number from 1 to this.
        pool_max_steps: at most so many training steps of a network; then a fresh one replaces it.
        inner_steps: of BPTT and MTT: training steps on the distilled images, of BPTT at most.
        inner_rate: their learning rate; of MTT the first one, which is learned.
        window: of BPTT: how many of the steps are differentiated.
        networks: of RFAD: random networks in each meta-iteration.
        trajectories: of MTT: networks that are trained on the real images, once.
        start_epochs: of MTT: a stretch of them begins at most so many epochs after the start,
        match_epochs: and is so many epochs long.
        devices: over how many the data, the distilled images and the pool are split; with several
            processes, all. A run may go on with another number.
        storage: where training images are kept: floats (preprocessed, on the device), bytes (a
            quarter of that, preprocessed in each meta-iteration), host (bytes in main memory, the
            next batch sent while a meta-iteration runs), or auto, by their size.
        microbatch: images are run through the network in parts of this size, which is faster on a
            CPU, and takes less memory elsewhere; by default at most 32 on a CPU, fewer of large
            images or in a wide network, and all at once elsewhere.
        curve_points: how often, evenly spaced, one network is trained for the learning curve.
        checkpoint_seconds: time between checkpoints.
        image_column: the data set's column of images.
        label_column: its column of labels.
        train_split: its split to distil.
        test_split: its split to evaluate on.
        held_out: so many training images, class-balanced and the same in every run of the data set,
            are kept from distillation, for what is selected by `evaluation.select`.
        samples: only so many training images, a class-balanced part drawn from the seed, are seen.
        resolution: resize and crop images to this many pixels.
        evaluation: how the result is judged.
    """

    dataset: str = "digits"
    ipc: int = 1
    method: Method = "rcig"
    out: Path = Path("runs/digits")
    seed: int = 0
    init: ByMethod[str] = None
    iterations: ByData[int] = None
    batch_size: ByData[int] = None
    width: ByData[int] = None
    depth: ByData[int] = None
    padding: ByData[int] = None
    norm: ByMethod[NormName] = None
    ridge_rate: ByData[float] = None
    zca: ByData[bool] = None
    flip: ByData[bool] = None
    augment: bool = False
    smooth: ByData[bool] = None
    solve: Solve = "linear"
    linear_solver: LinearSolver = "auto"
    rtol: float = 1e-2
    adjoint_rtol: float = 1e-2
    cg_max_steps: int = 64
    float64: bool = False
    n_subset: Open[int] = None
    remat: bool = False
    precision: Precision = "float32"
    adam_steps: int = 20
    clip_implicit: bool = True
    coreset_optimiser: ByMethod[Optimiser] = None
    coreset_rate: BySolve[float] = None
    coreset_decay: BySolve[float] = None
    temperature_rate: float = 3e-2
    average_decay: float = 0.99
    pool_size: ByMethod[int] = None
    pool_rate: ByMethod[float] = None
    pool_steps: ByMethod[int] = None
    pool_max_steps: ByMethod[int] = None
    inner_steps: ByMethod[int] = None
    inner_rate: ByMethod[float] = None
    window: ByMethod[int] = None
    networks: ByMethod[int] = None
    trajectories: ByMethod[int] = None
    start_epochs: ByMethod[int] = None
    match_epochs: ByMethod[int] = None
    devices: Devices = 1
    storage: Storage = "auto"
    microbatch: Open[int] = None
    curve_points: int = 5
    checkpoint_seconds: float = 30.0
    image_column: Found[str] = None
    label_column: Found[str] = None
    train_split: Found[str] = None
    test_split: Found[str] = None
    held_out: Annotated[int | None, tyro.conf.arg(help_behavior_hint="(default: none)")] = None
    samples: Annotated[int | None, tyro.conf.arg(help_behavior_hint="(default: all)")] = None
    resolution: Annotated[
        int | None, tyro.conf.arg(help_behavior_hint="(default: as they are)")
    ] = None
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        check_name("method", self.method, METHOD_NAMES, METHOD_GROUP)
        for name, known in (("solve", Solve), ("norm", NormName), ("coreset_optimiser", Optimiser),
                            ("linear_solver", LinearSolver), ("precision", Precision),
                            ("storage", Storage)):  # fmt: skip
            if getattr(self, name) is not None:
                one_of(name, getattr(self, name), known)
        for name in ("ipc", "adam_steps", "cg_max_steps", "curve_points", "batch_size", "width",
                     "depth", "microbatch", "resolution", "n_subset", "held_out", "samples",
                     "pool_size", "pool_steps", "pool_max_steps", "inner_steps", "window",
                     "networks", "trajectories", "match_epochs"):  # fmt: skip
            if getattr(self, name) is not None:
                at_least_one(name, getattr(self, name))
        for name in ("iterations", "padding", "start_epochs", "seed", "checkpoint_seconds"):
            if getattr(self, name) is not None:
                not_negative(name, getattr(self, name))
        if self.devices != "all":
            at_least_one("devices", self.devices)
        if not 0 <= self.average_decay < 1:
            raise ValueError(
                f"average_decay={self.average_decay} is not a decay: give 0 or more and below 1."
            )
        if self.coreset_decay is not None and not 0 < self.coreset_decay <= 1:
            raise ValueError(
                f"coreset_decay={self.coreset_decay} is not a share: give above 0 and at most 1."
            )
        for name in ("ridge_rate", "rtol", "adjoint_rtol", "coreset_rate", "temperature_rate",
                     "pool_rate", "inner_rate"):  # fmt: skip
            if getattr(self, name) is not None:
                positive(name, getattr(self, name))
