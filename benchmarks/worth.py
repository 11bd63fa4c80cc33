"""What a distilled set is worth: accuracy against bytes stored, and against all computation.

    python benchmarks/worth.py --dataset mnist --seconds 60
    python benchmarks/worth.py --dataset cifar10 --seconds 120

Bytes are those of images and labels. A distilled set is stored as 16-bit numbers, and judged as it
is read back, with its soft labels (16 bits each) or with hard ones (a byte an image). Chosen real
images, at random or by herding, are stored as PNG or as JPEG files of quality 75 with a byte for
the label, as many of each class as fit into the bytes of a distilled set, and into four and sixteen
times as much; JPEG images are judged as they are read back.

Seconds are those of the processors, of making a set (choosing included) and of training one network
on it, the test included and compilation left out. The row `all data` is a training on all images,
with as many steps.

Judges: the paper's ConvNet, and a ResNet-18 with batch normalisation, both narrow (`--width`,
`--resnet-width`) to end here; nothing is selected, and test images are asked once. Resumable: what
the result file holds is skipped.
"""

import io
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import systems
import tyro
from _report import RESULTS, table, write
from PIL import Image

from bilevel_distillation import (
    Distillation,
    DistilledSet,
    EvaluationConfig,
    RunConfig,
    hold,
    judge,
    resolve,
)
from bilevel_distillation.data import ImageData, Preprocessor, load

Form = Literal["float16", "png", "jpeg"]
QUALITY = 75


@dataclass(frozen=True)
class Arguments:
    """Settings.

    Attributes:
        dataset: digits, mnist or cifar10.
        ipc: images per class of the distilled sets.
        methods: that distil.
        choices: of real images.
        forms: in which those are stored.
        times: their bytes, in multiples of those of a distilled set.
        seconds: of the processors, of each distillation.
        networks: trained on each set: two or more, as the first one compiles.
        judges: convnet or resnet18, or both.
        steps: of their training.
        width: of the ConvNet; None: as distilled.
        resnet_width: of the ResNet-18.
        seed: of everything random.
        out: where the distilled sets are.
    """

    dataset: str = "mnist"
    ipc: tuple[int, ...] = (1, 10)
    methods: tuple[str, ...] = ("rcig", "dm")
    choices: tuple[str, ...] = ("random", "herding")
    forms: tuple[Form, ...] = ("png", "jpeg")
    times: tuple[int, ...] = (1, 4, 16)
    seconds: float = 60.0
    networks: int = 2
    judges: tuple[str, ...] = ("convnet", "resnet18")
    steps: int = 500
    width: int | None = None
    resnet_width: int = 8
    seed: int = 0
    out: Path = Path("runs/worth")


@dataclass(frozen=True)
class Stored:
    """A set as it is read back.

    Attributes:
        name: what it is.
        distilled: images and labels.
        image_bytes: of the images alone.
        seconds: of the processors, to make it.
    """

    name: str
    distilled: DistilledSet
    image_bytes: int
    seconds: float


def main(arguments: Arguments) -> None:
    if arguments.networks < 2:
        raise SystemExit("networks=1 would count compilation: give --networks 2 or more.")
    name = f"worth_{arguments.dataset}"
    path = RESULTS / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"sets": {}}
    held, asked = found.get("settings"), said(arguments)
    if held is not None and held != asked:
        raise SystemExit(f"{path} holds figures of {held}, not of {asked}: move it away to begin.")
    data = load(arguments.dataset)
    for stored in all_sets(arguments, data):
        record = found["sets"].setdefault(
            stored.name,
            {"images": len(stored.distilled.images), "seconds": stored.seconds, "judged": {}},
        )
        for key, figures in judged(arguments, data, stored, record["judged"]):
            record["judged"][key] = figures
            write(name, {"settings": asked, "sets": found["sets"]})
            print(f"{stored.name:24} {key:16} {100 * np.mean(figures['accuracies']):5.1f} %",
                  flush=True)  # fmt: skip
    show(found)


def said(arguments: Arguments) -> dict[str, Any]:
    names = ("seconds", "networks", "steps", "width", "resnet_width", "seed")
    distilled = systems.SIZES[arguments.dataset]["width"]
    widths = {"width": arguments.width or distilled, "distilled_width": distilled}
    return {name: getattr(arguments, name) for name in names} | widths


def all_sets(arguments: Arguments, data: ImageData) -> Iterator[Stored]:
    """The distilled ones, and chosen images of as many bytes and more; all images at the end."""
    preprocessor = None
    for ipc in arguments.ipc:
        budget = 0
        for method in arguments.methods:
            made, seconds = distilled(arguments, data, method, ipc)
            preprocessor = made.preprocessor
            made, size = stored_as(made, "float16")
            budget = max(budget, size + 2 * made.labels.size)
            yield Stored(f"{method}, {ipc} a class", made, size, seconds)
        for form in arguments.forms:
            for times in arguments.times:
                count = fitting(data, form, times * budget)
                for choice in arguments.choices:
                    made, seconds = chosen(arguments, data, choice, count, preprocessor)
                    made, size = stored_as(made, form)
                    yield Stored(f"{choice} {form}, {count} a class", made, size, seconds)
    yield everything(data, preprocessor)


def distilled(
    arguments: Arguments, data: ImageData, method: str, ipc: int
) -> tuple[DistilledSet, float]:
    """By one of the systems, as their benchmark makes it."""
    asked = systems.Arguments(
        dataset=arguments.dataset, ipc=ipc, seconds=arguments.seconds, seeds=(arguments.seed,),
        methods=(method,), out=arguments.out,
    )  # fmt: skip
    path = systems.set_of(asked, method, arguments.seed)
    told = path.with_suffix(".json")
    if not told.exists():
        (record,) = systems.distil_all(asked, data, [])
        told.write_text(json.dumps(record) + "\n")
    return DistilledSet.load_npz(path), json.loads(told.read_text())["seconds"]


def chosen(
    arguments: Arguments,
    data: ImageData,
    choice: str,
    ipc: int,
    preprocessor: Preprocessor | None,
) -> tuple[DistilledSet, float]:
    """Real images; `preprocessor`: fitted already."""
    config = RunConfig(
        dataset=arguments.dataset, ipc=ipc, method=choice, seed=arguments.seed, flip=False,
        width=systems.SIZES[arguments.dataset]["width"],
    )  # fmt: skip
    one = Distillation(config, data, preprocessor)
    began = time.process_time()
    one.prepare()
    return one.distilled(), time.process_time() - began


def everything(data: ImageData, preprocessor: Preprocessor | None) -> Stored:
    """All training images, as PNG."""
    preprocessor = preprocessor or Preprocessor.fit(data.train_images, zca=False)
    labels = np.eye(data.classes, dtype=np.float32)[data.train_labels] - 1 / data.classes
    whole = DistilledSet(
        preprocessor(data.train_images), labels, data.train_labels, data.class_names, preprocessor
    )
    each = mean_bytes(data.train_images, "png")
    return Stored("all data", whole, round(each * len(labels)), 0.0)


def stored_as(made: DistilledSet, form: Form) -> tuple[DistilledSet, int]:
    """The set as it is read back, and the bytes of its images."""
    if form == "float16":
        images, labels = (array.astype(np.float16) for array in (made.images, made.labels))
        back = replace(made, images=images.astype(np.float32), labels=labels.astype(np.float32))
        return back, images.nbytes
    files = [encoded(image, form) for image in made.display_images]
    pixels = np.stack([decoded(file, made.images.shape[-1]) for file in files])
    return replace(made, images=made.preprocessor(pixels)), sum(map(len, files))


def encoded(image: np.ndarray, form: Form) -> bytes:
    file = io.BytesIO()
    pixels = image[..., 0] if image.shape[-1] == 1 else image
    settings: dict[str, Any] = {"quality": QUALITY} if form == "jpeg" else {}
    Image.fromarray(pixels).save(file, form, optimize=True, **settings)
    return file.getvalue()


def decoded(file: bytes, channels: int) -> np.ndarray:
    pixels = np.asarray(Image.open(io.BytesIO(file)))
    return pixels.reshape(*pixels.shape[:2], channels)


def mean_bytes(images: np.ndarray, form: Form, most: int = 500) -> float:
    """Of a file, by evenly spaced images."""
    some = images[:: max(1, len(images) // most)]
    return float(np.mean([len(encoded(image, form)) for image in some]))


def fitting(data: ImageData, form: Form, budget: float) -> int:
    """Images per class that so many bytes have room for, one at least."""
    fewest = int(np.bincount(data.train_labels, minlength=data.classes).min())
    each = mean_bytes(data.train_images, form) + 1
    return min(max(1, int(budget / (data.classes * each))), fewest)


def judged(
    arguments: Arguments, data: ImageData, stored: Stored, known: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Accuracies, bytes, and seconds of training one network, of each judge with both labels."""
    made, held = stored.distilled, None
    for network in arguments.judges:
        for labels in ("soft", "hard") if systems.learned(made) else ("hard",):
            key = f"{network}, {labels}"
            if key in known:
                continue
            held = held or hold(data, made.preprocessor)
            moments: list[float] = []
            config = judging(arguments, data, network, labels)
            accuracies = judge(config, held, made, done=noting(moments))
            size = 2 * made.labels.size if labels == "soft" else len(made.labels)
            yield (
                key,
                {
                    "accuracies": accuracies,
                    "bytes": stored.image_bytes + size,
                    "training, s": float(np.median(np.diff(moments))),
                },
            )


def noting(moments: list[float]) -> Callable[[float], None]:
    """Appends the processors' time at each call."""
    return lambda _: moments.append(time.process_time())


def judging(arguments: Arguments, data: ImageData, network: str, labels: Any) -> RunConfig:
    own: dict[str, Any] = {"judge": "paper", "width": said(arguments)["width"]}
    if network == "resnet18":
        own = {"network": "resnet18", "norm": "batch", "width": arguments.resnet_width}
    evaluation = EvaluationConfig(
        repeats=arguments.networks, steps=arguments.steps, labels=labels, **own
    )
    config = replace(
        RunConfig(dataset=arguments.dataset, seed=arguments.seed), evaluation=evaluation
    )
    return resolve(config, data.image_shape, data.classes)


def show(found: dict[str, Any]) -> None:
    rows = [
        [name, key, one["images"], of["bytes"], one["seconds"] + of["training, s"],
         100 * float(np.mean(of["accuracies"]))]
        for name, one in found["sets"].items()
        for key, of in one["judged"].items()
    ]  # fmt: skip
    table(["set", "judge, labels", "images", "bytes", "seconds", "%"], rows)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
