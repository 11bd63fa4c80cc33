"""Standardising and whitening, against their definitions."""

import numpy as np
import pytest

from bilevel_distillation.data import Preprocessor, _preprocess, load


@pytest.fixture(scope="module")
def colour():
    """Smooth pictures whose channels differ in brightness and spread."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(5000, 5, 5, 3))
    smooth = noise[:, :-1, :-1] + noise[:, 1:, :-1] + noise[:, :-1, 1:] + noise[:, 1:, 1:]
    return np.clip(smooth * (10, 20, 30) + (90, 120, 150), 0, 255).astype(np.uint8)


def test_gray_is_standardised():
    images = load("digits").train_images
    out = Preprocessor.fit(images, zca=False)(images)
    assert out.dtype == np.float32 and out.shape == images.shape
    assert abs(out.mean(dtype=np.float64)) < 1e-5 and abs(out.std(dtype=np.float64) - 1) < 1e-5


def test_statistics_are_by_channel(colour):
    preprocessor = Preprocessor.fit(colour, zca=False)
    scaled = colour / 255
    np.testing.assert_allclose(preprocessor.mean, scaled.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(preprocessor.std, scaled.std((0, 1, 2)), rtol=1e-6)


def test_zca_is_the_inverse_root_of_the_regularised_covariance(colour):
    preprocessor = Preprocessor.fit(colour, zca=True, regularization=0.1)
    s = (colour / 255 - preprocessor.mean) / preprocessor.std
    s = s.reshape(len(s), -1)
    covariance = s.T @ s / len(s)
    covariance += 0.1 * np.linalg.eigvalsh(covariance).mean() * np.eye(len(covariance))
    w = preprocessor.whitening
    assert w is not None and w.dtype == np.float32
    np.testing.assert_allclose(w @ covariance @ w, np.eye(len(w)), atol=1e-4)
    np.testing.assert_allclose(w, w.T, atol=1e-6)
    np.testing.assert_allclose(
        preprocessor(colour).reshape(len(s), -1), s @ w.astype(np.float64), atol=1e-4
    )


def test_blocks_do_not_show(colour):
    preprocessor = Preprocessor.fit(colour, zca=True)
    whole = preprocessor(colour)
    assert len(colour) > 4096
    np.testing.assert_allclose(whole[4090:4100], preprocessor(colour[4090:4100]), atol=1e-5)


@pytest.mark.parametrize("zca", [False, True])
def test_inverse_gives_the_pixels_back(colour, zca):
    preprocessor = Preprocessor.fit(colour, zca=zca)
    np.testing.assert_array_equal(preprocessor.inverse(preprocessor(colour[:50])), colour[:50])


def test_inverse_clips():
    images = load("digits").train_images
    preprocessor = Preprocessor.fit(images, zca=False)
    ends = np.stack([np.full((8, 8, 1), -99, np.float32), np.full((8, 8, 1), 99, np.float32)])
    out = preprocessor.inverse(ends)
    assert (out[0] == 0).all() and (out[1] == 255).all()


@pytest.mark.parametrize("zca", [False, True])
def test_arrays_there_and_back(colour, zca, tmp_path):
    preprocessor = Preprocessor.fit(colour, zca=zca)
    np.savez(tmp_path / "p.npz", **preprocessor.to_arrays())
    with np.load(tmp_path / "p.npz") as stored:
        again = Preprocessor.from_arrays(stored)
    assert again.image_shape == (4, 4, 3) and (again.whitening is None) is not zca
    np.testing.assert_array_equal(again(colour[:20]), preprocessor(colour[:20]))


def test_large_images_are_whitened_as_on_a_checkerboard(colour, monkeypatch):
    monkeypatch.setattr(_preprocess, "_MOST", 16)
    preprocessor = Preprocessor.fit(colour, zca=True)
    assert preprocessor.stride == 2
    plain = Preprocessor.fit(colour, zca=False)(colour)
    apart = [plain[:, i::2, j::2].reshape(len(plain), 12) for i in (0, 1) for j in (0, 1)]
    covariance = np.mean([one.T @ one / len(one) for one in apart], axis=0)
    values, vectors = np.linalg.eigh(covariance + 0.1 * np.trace(covariance) / 12 * np.eye(12))
    whitening = (vectors / np.sqrt(values)) @ vectors.T
    out = preprocessor(colour)
    for (i, j), one in zip([(0, 0), (0, 1), (1, 0), (1, 1)], apart, strict=True):
        found = out[:, i::2, j::2].reshape(len(out), 12)
        np.testing.assert_allclose(found, one @ whitening, atol=1e-4)
    again = Preprocessor.from_arrays(preprocessor.to_arrays())
    np.testing.assert_array_equal(again.inverse(out), colour)


def test_refusals(colour):
    preprocessor = Preprocessor.fit(colour, zca=False)
    with pytest.raises(ValueError, match=r"dtype float64.*as uint8"):
        Preprocessor.fit(colour / 255, zca=False)
    with pytest.raises(ValueError, match="constant in channel 1"):
        Preprocessor.fit(colour * np.array([1, 0, 1], np.uint8), zca=False)
    with pytest.raises(ValueError, match="regularization is 0"):
        Preprocessor.fit(colour, zca=True, regularization=0.0)
    with pytest.raises(ValueError, match="another resolution or set zca=False"):
        Preprocessor.fit(np.zeros((1, 127, 127, 3), np.uint8), zca=True)
    with pytest.raises(ValueError, match=r"fitted to images of shape \(4, 4, 3\)"):
        preprocessor(colour[:, :2])
    with pytest.raises(ValueError, match="NaN"):
        preprocessor.inverse(np.full((1, 4, 4, 3), np.nan, np.float32))
    with pytest.raises(ValueError, match="arrays lack std"):
        Preprocessor.from_arrays({"mean": preprocessor.mean, "image_shape": np.array([4, 4, 3])})
    with pytest.raises(ValueError, match="whitening has shape"):
        Preprocessor(preprocessor.mean, preprocessor.std, (4, 4, 3), np.eye(5, dtype=np.float32))


@pytest.mark.slow
def test_the_authors_images_are_in_this_space(real_data, tmp_path, monkeypatch):
    """Their images, made from real ones, sit in the spread and brightness of CIFAR-10."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setenv("BILEVEL_DATA", str(real_data))
    cifar = load("cifar10")
    preprocessor = Preprocessor.fit(cifar.train_images[:10_000], zca=True)
    with np.load(real_data / "rcig_authors_cifar10_1ipc.npz") as stored:
        theirs = stored["x_proto"]
    assert abs(theirs.std() / preprocessor(cifar.test_images[:2000]).std() - 1) < 0.1
    shown = preprocessor.inverse(theirs)
    assert 80 < shown.mean() < 160 and np.mean((shown == 0) | (shown == 255)) < 0.15
