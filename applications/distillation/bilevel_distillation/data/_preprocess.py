"""Bringing images into the space that networks are trained in, and back."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float32, UInt8

_BLOCK = 4096
_MOST = 16384
"""Values of an image that are whitened together."""


@dataclass(frozen=True, eq=False)
class Preprocessor:
    r"""Standardises images by channel, then whitens them if it was fitted to.

    With pixels $p \in [0, 1]$, channel means $\mu$ and deviations $\sigma$, and the flattened
    standardised image $s = (p - \mu) / \sigma$, the result is $s$, or with ZCA

    $$x = s \, W, \qquad W = (S^T S / n + \rho\, \bar e I)^{-1/2},$$

    where the rows of $S$ are the standardised training images, $\bar e$ is the mean eigenvalue
    of $S^T S / n$ and $\rho$ the regularisation.

    Images of more than 16,384 values (128 x 128 in colour) are whitened as on a checkerboard: with
    a stride of 2, the pixels of even rows and even columns make one image, and so on: four images
    of 64 x 64, all whitened by one W, that of their mean covariance.

    Attributes:
        mean: float32 [channels], of pixels in [0, 1].
        std: float32 [channels], of pixels in [0, 1].
        image_shape: height, width, channels.
        whitening: the symmetric matrix W, float32 [values, values] for the values of an image, or
            of one of those that it is split into, flattened in the order height, width, channel;
            None without ZCA.
    """

    mean: np.ndarray
    std: np.ndarray
    image_shape: tuple[int, int, int]
    whitening: np.ndarray | None = None

    def __post_init__(self) -> None:
        height, width, channels = (int(size) for size in self.image_shape)
        object.__setattr__(self, "image_shape", (height, width, channels))
        values = height * width * channels
        if self.stride is not None:
            values //= self.stride**2
        for argument, shape in (
            ("mean", (channels,)),
            ("std", (channels,)),
            ("whitening", (values, values)),
        ):
            array = getattr(self, argument)
            if array is None and argument == "whitening":
                continue
            array = np.asarray(array, np.float32)
            if array.shape != shape:
                raise ValueError(
                    f"{argument} has shape {array.shape}; images of "
                    f"{height} x {width} x {channels} need {shape}."
                )
            if not np.isfinite(array).all():
                raise ValueError(f"{argument} holds NaN or infinity; fit the preprocessor again.")
            object.__setattr__(self, argument, array)
        if not (self.std > 0).all():
            raise ValueError(f"std is {self.std}; it must be positive in every channel.")

    @property
    def stride(self) -> int | None:
        """How far apart pixels are that are whitened together; None without ZCA."""
        if self.whitening is None:
            return None
        height, width, channels = self.image_shape
        fits = {height * width * channels // s**2: s for s in _strides(height, width)}
        return fits.get(len(self.whitening), 1)

    @classmethod
    def fit(
        cls,
        images: np.ndarray,
        *,
        zca: bool,
        regularization: float = 0.1,
    ) -> "Preprocessor":
        """Measure training images.

        Sums are taken block by block, so that no float copy of all images is made.

        Args:
            images: the training images, uint8 [n, height, width, channels].
            zca: whether to whiten after standardising (usual for colour images).
            regularization: what is added to the eigenvalues of the covariance, in units of their
                mean.

        Raises:
            ValueError: if the images are not `uint8` [n, height, width, channels], a channel is
                constant, `regularization` is not positive, or images are too large for ZCA.
        """
        _check_pixels(images)
        if zca and not regularization > 0:
            raise ValueError(f"regularization is {regularization}; give a positive number.")
        shape = images.shape[1:]
        values = whitened_values(shape) if zca else 0
        mean, std = _channel_statistics(images)
        standardise = cls(mean, std, shape)
        if not zca:
            return standardise
        stride = round((images[0].size / values) ** 0.5)
        covariance = np.zeros((values, values))
        for start in range(0, len(images), _BLOCK):
            block = _split(standardise(images[start : start + _BLOCK]), stride)
            covariance += block.T @ block
        covariance /= len(images) * stride**2
        covariance[np.diag_indices(values)] += regularization * np.trace(covariance) / values
        roots, vectors = np.linalg.eigh(covariance)
        whitening = (vectors * roots**-0.5) @ vectors.T
        return cls(mean, std, shape, whitening.astype(np.float32))

    def __call__(self, images: np.ndarray) -> Float32[np.ndarray, "n height width channels"]:
        """Images, uint8 [n, height, width, channels], as networks are trained on them.

        Raises:
            ValueError: if the images are not `uint8` of the shape that this was fitted to.
        """
        _check_pixels(images)
        self._check_shape(images)
        scale = 1 / (255 * self.std)
        shift = self.mean / self.std
        out = np.empty(images.shape, np.float32)
        for start in range(0, len(images), _BLOCK):
            block = images[start : start + _BLOCK] * scale - shift
            out[start : start + _BLOCK] = self._each(block, self.whitening)
        return out

    def inverse(self, images: np.ndarray) -> UInt8[np.ndarray, "n height width channels"]:
        """Displayable pixels of preprocessed images: rounded, and clipped to 0 to 255.

        Raises:
            ValueError: if the images hold NaN or infinity, or have another shape.
        """
        images = np.asarray(images, np.float32)
        self._check_shape(images)
        if not np.isfinite(images).all():
            raise ValueError("images hold NaN or infinity; only finite images can be shown.")
        images = self._each(images, self._unwhitening)
        pixels = (images * self.std + self.mean) * 255
        return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Arrays to store: `mean`, `std`, `image_shape` and, with ZCA, `whitening`."""
        arrays = {
            "mean": self.mean,
            "std": self.std,
            "image_shape": np.array(self.image_shape, np.int64),
        }
        return arrays if self.whitening is None else arrays | {"whitening": self.whitening}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "Preprocessor":
        """The preprocessor that `to_arrays` described; other keys are ignored.

        Raises:
            ValueError: if an array is missing.
        """
        missing = [key for key in ("mean", "std", "image_shape") if key not in arrays]
        if missing:
            raise ValueError(
                f"arrays lack {', '.join(missing)}; give what Preprocessor.to_arrays returned."
            )
        height, width, channels = (int(size) for size in arrays["image_shape"])
        whitening = arrays["whitening"] if "whitening" in arrays else None
        return cls(arrays["mean"], arrays["std"], (height, width, channels), whitening)

    @cached_property
    def _unwhitening(self) -> Float32[np.ndarray, "pixels pixels"] | None:
        if self.whitening is None:
            return None
        return np.linalg.inv(self.whitening.astype(np.float64)).astype(np.float32)

    def _each(self, images: np.ndarray, matrix: np.ndarray | None) -> np.ndarray:
        """Standardised images, or what they are split into, times a matrix."""
        if matrix is None or self.stride is None:
            return images
        return _join(_split(images, self.stride) @ matrix, self.stride, images.shape)

    def _check_shape(self, images: np.ndarray) -> None:
        if images.shape[1:] != self.image_shape:
            raise ValueError(
                f"images have shape {images.shape}, but the preprocessor was fitted to images of "
                f"shape {self.image_shape}; give [n, *{self.image_shape}]."
            )


def whitened_values(image_shape: tuple[int, ...]) -> int:
    """The rows of the matrix that images of this shape are whitened by.

    Raises:
        ValueError: if images are too large for one.
    """
    height, width, channels = image_shape
    values = height * width * channels
    fitting = (values // s**2 for s in _strides(height, width) if values <= _MOST * s**2)
    found = next(fitting, None)
    if found is None:
        raise ValueError(
            f"zca needs a matrix of {values} x {values} for images of shape {image_shape}, which "
            "no small stride splits evenly; load them at another resolution or set zca=False."
        )
    return found


def _strides(height: int, width: int) -> list[int]:
    return [stride for stride in (1, 2, 4) if height % stride == 0 and width % stride == 0]


def _split(images: np.ndarray, stride: int) -> np.ndarray:
    """Every `stride`-th pixel of every `stride`-th row, from each offset: shape
    (n stride^2, values).
    """
    n, height, width, channels = images.shape
    apart = images.reshape(n, height // stride, stride, width // stride, stride, channels)
    return apart.transpose(0, 2, 4, 1, 3, 5).reshape(n * stride**2, -1)


def _join(rows: np.ndarray, stride: int, shape: tuple[int, ...]) -> np.ndarray:
    n, height, width, channels = shape
    apart = rows.reshape(n, stride, stride, height // stride, width // stride, channels)
    return apart.transpose(0, 3, 1, 4, 2, 5).reshape(shape)


def _channel_statistics(
    images: UInt8[np.ndarray, "n height width channels"],
) -> tuple[Float32[np.ndarray, " channels"], Float32[np.ndarray, " channels"]]:
    channels = images.shape[3]
    levels = np.arange(256) / 255
    mean, std = np.empty(channels), np.empty(channels)
    for channel in range(channels):
        share = np.zeros(256)
        for start in range(0, len(images), _BLOCK):
            block = images[start : start + _BLOCK, :, :, channel]
            share += np.bincount(block.ravel(), minlength=256)
        share /= share.sum()
        mean[channel] = share @ levels
        std[channel] = np.sqrt(share @ (levels - mean[channel]) ** 2)
        if np.count_nonzero(share) == 1:
            raise ValueError(
                f"images are constant in channel {channel}, so they cannot be standardised; "
                "give images that vary."
            )
    return mean.astype(np.float32), std.astype(np.float32)


def _check_pixels(images: np.ndarray) -> None:
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4:
        got = (
            f"dtype {images.dtype} and shape {images.shape}"
            if isinstance(images, np.ndarray)
            else f"type {type(images).__name__}"
        )
        raise ValueError(
            f"images have {got}; give pixels from 0 to 255 as uint8 [n, height, width, channels]."
        )
    if not images.size:
        raise ValueError(f"images are empty, their shape is {images.shape}; give some images.")
