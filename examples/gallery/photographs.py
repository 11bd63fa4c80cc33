"""Distilling one's own photographs.

Two photographs that come with scikit-learn, a flower and a temple, are cut into tiles of 8 pixels.
Which is a tile from? A folder with one subfolder a class is all that `bilevel-distill run
--dataset` needs; here the same from Python, down to four whitened images a class, with their mirror
images. The set is exported for PyTorch.
"""

import matplotlib.pyplot as plt
import numpy as np
from _figure import save
from sklearn.datasets import load_sample_images

from bilevel_distillation import Distillation, EvaluationConfig, RunConfig, export, hold, judge
from bilevel_distillation.data import ImageData


def tiles(picture, side=8, step=4):
    small = picture[::step, ::step][: 12 * side, : 20 * side]
    rows, columns = small.shape[0] // side, small.shape[1] // side
    cut = small[: rows * side, : columns * side].reshape(rows, side, columns, side, 3)
    return cut.transpose(0, 2, 1, 3, 4).reshape(-1, side, side, 3)


temple, flower = (tiles(picture) for picture in load_sample_images().images)
images = np.concatenate([temple, flower])
labels = np.repeat(np.array([0, 1], np.int32), [len(temple), len(flower)])
order = np.random.default_rng(0).permutation(len(images))
train, test = order[: len(order) * 3 // 4], order[len(order) * 3 // 4 :]
data = ImageData(
    "photographs", images[train], labels[train], images[test], labels[test], ("temple", "flower")
)

judge_by = EvaluationConfig(repeats=2, steps=150, warmup=50, learning_rate=1e-3)
config = RunConfig(
    dataset="photographs", ipc=4, width=16, depth=2, padding=0, batch_size=128, iterations=100,
    pool_size=4, zca=True, flip=True, evaluation=judge_by,
)  # fmt: skip
distillation = Distillation(config, data)
for _ in range(100):
    distillation.step()
distilled = distillation.distilled()
accuracies = judge(distillation.config, hold(data, distillation.preprocessor), distilled)
print(distilled)
print("test accuracy of two networks:", " and ".join(f"{100 * one:.1f} %" for one in accuracies))
said = f"Two networks recognise {100 * np.mean(accuracies):.1f} % of the held-out tiles."
print("exported to", export(distilled, "runs/photographs", "hf", judged=said))

figure, all_axes = plt.subplots(2, 8, figsize=(8, 2.2), layout="constrained")
shown = {True: distilled.display_images, False: np.concatenate([temple[:4], flower[:4]])}
for row, (is_distilled, pictures) in enumerate(shown.items()):
    for ax, picture in zip(all_axes[row], pictures, strict=True):
        ax.imshow(picture)
        ax.set(xticks=[], yticks=[])
    all_axes[row, 0].set_ylabel("distilled" if is_distilled else "real")
save(figure, __file__)
