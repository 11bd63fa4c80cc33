"""A distilled set in PyTorch.

The set that the example before exported, and no JAX: two lines load it, two more add its mirror
images, five bring real photographs into the space that it was whitened in, and an ordinary training
loop does the rest. The card of an exported set has the same lines, made for that set. Needs
`torch`, `datasets` and scikit-learn's photographs.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from _figure import BLUE, GREY, save
from datasets import load_dataset
from sklearn.datasets import load_sample_images
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

FOLDER = "runs/photographs"

rows = load_dataset(FOLDER, split="train").with_format("torch")[:]
images, soft_labels = rows["pixels"].movedim(-1, 1), rows["soft_label"]

images = torch.cat([images, images.flip(3)])  # its mirror images, as the card says
soft_labels = torch.cat([soft_labels, soft_labels])

with np.load(f"{FOLDER}/preprocess.npz") as file:
    mean, std, whitening = (torch.from_numpy(file[name]) for name in ("mean", "std", "whitening"))


def preprocess(pictures):
    """uint8 [n, height, width, channels] -> whitened float32 [n, channels, height, width]."""
    x = (pictures / 255 - mean) / std
    return (x.flatten(1) @ whitening).reshape(x.shape).movedim(-1, 1)


def tiles(picture, side=8, step=4):
    small = picture[::step, ::step][: 12 * side, : 20 * side]
    cut = small.reshape(12, side, 20, side, 3)
    return torch.from_numpy(cut.transpose(0, 2, 1, 3, 4).reshape(-1, side, side, 3).copy())


pictures = torch.cat([tiles(picture) for picture in load_sample_images().images])
labels = torch.arange(2).repeat_interleave(len(pictures) // 2)
order = np.random.default_rng(0).permutation(len(pictures))
train, test = order[: len(order) * 3 // 4], order[len(order) * 3 // 4 :]


def network(width=32):
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(8 * width, 2),
    )  # fmt: skip


def accuracy_after_training(images, targets, epochs=200):
    """Squared error against the soft labels, as the set was made for."""
    model = network()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(epochs):
        for x, y in DataLoader(TensorDataset(images, targets), batch_size=64, shuffle=True):
            optimiser.zero_grad()
            (model(x) - y).square().sum(1).mean().backward()
            optimiser.step()
    with torch.no_grad():
        found = model(preprocess(pictures[test])).argmax(1)
    return 100 * (found == labels[test]).float().mean().item()


distilled, chosen = [], []
for seed in range(5):
    torch.manual_seed(seed)
    distilled.append(accuracy_after_training(images, soft_labels))
    some = np.concatenate(
        [train[labels[train] == c][torch.randperm(len(train) // 3)[:4]] for c in (0, 1)]
    )
    real = preprocess(pictures[some])
    one_hot = nn.functional.one_hot(labels[some], 2) - 0.5
    chosen.append(
        accuracy_after_training(torch.cat([real, real.flip(3)]), torch.cat([one_hot, one_hot]))
    )
for name, found in (("distilled", distilled), ("random real", chosen)):
    print(f"trained on 8 {name} images: {np.mean(found):.1f} ± {np.std(found):.1f} %")

figure, (left, right) = plt.subplots(
    1, 2, figsize=(7, 2.6), layout="constrained", width_ratios=(3, 2)
)
shown = [np.asarray(picture) for picture in load_dataset(FOLDER, split="train")["image"]]
left.imshow(np.concatenate([np.hstack(shown[:4]), np.hstack(shown[4:])]))
left.set(xticks=[], yticks=[], title="all that it was trained on")
right.bar(
    ["distilled", "random real"], [np.mean(distilled), np.mean(chosen)],
    yerr=[np.std(distilled), np.std(chosen)], color=[BLUE, GREY],
)  # fmt: skip
right.set(ylabel="held-out tiles recognised, %", ylim=(0, 100))
save(figure, __file__)
