"""From stored pictures to pixels: sizes, depths, transparency, and what is left out."""

import io
import logging
import tracemalloc

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest

from bilevel_distillation.data import _decode, _room, load
from bilevel_distillation.data._decode import Decoded, bring_to_bytes
from bilevel_distillation.data._picture import picture_of


def opened(pixels, kind="PNG", mode=None, **options):
    file = io.BytesIO()
    made = PIL.Image.fromarray(pixels)
    made = made if mode is None else made.convert(mode)
    made.save(file, kind, **options)
    return PIL.Image.open(file)


def colour(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("size", [(40, 17), (17, 40), (16, 16), (9, 9), (16, 99), (10, 99)])
def test_the_middle_square_is_that_of_the_whole_picture_resized(size):
    picture = opened(colour(*size))
    found = picture_of(picture, 16).pixels.astype(int)
    scale = 16 / min(size)
    height, width = (max(16, round(one * scale)) for one in size)
    whole = picture.resize((width, height), PIL.Image.Resampling.BICUBIC)
    left, top = (width - 16) // 2, (height - 16) // 2
    expected = np.asarray(whole.crop((left, top, left + 16, top + 16))).astype(int)
    assert np.abs(found - expected).max() <= (30 if max(size) > 8 * min(size) else 0)
    assert np.abs(found - expected).mean() < 1


def test_a_tall_picture_takes_no_more_memory_than_its_middle():
    picture = PIL.Image.new("L", (2, 200_000), 7)
    tracemalloc.start()
    pixels = picture_of(picture, 64).pixels
    assert tracemalloc.get_traced_memory()[1] < 2**20 and (pixels == 7).all()
    tracemalloc.stop()
    with pytest.raises(ValueError, match="20000 x 20000 pixels are too many"):
        picture_of(PIL.Image.new("1", (20000, 20000)), 16)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_become_white_and_opaque_ones_stay(mode):
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:2, :, 3] = 255
    options = {"transparency": 0} if mode == "P" else {}
    if mode == "P":
        indices = PIL.Image.new("P", (4, 4), 1)
        indices.putpalette([90, 80, 70, 0, 0, 0])
        indices.paste(0, (0, 2, 4, 4))
        file = io.BytesIO()
        indices.save(file, "PNG", **options)
        picture = PIL.Image.open(file)
    else:
        picture = opened(pixels, mode=mode)
    found = picture_of(picture, None)
    assert found.was_clear
    assert (found.pixels[:2] == 0).all() and (found.pixels[2:] == 255).all()
    whole = picture_of(opened(np.full((4, 4, 4), 255, np.uint8), mode="RGBA"), None)
    assert not whole.was_clear


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (np.array([[0, 4095], [2000, 10]], np.uint16), "PNG"),
        (np.array([[0, 4095], [2000, 10]], ">u2"), "TIFF"),
        (np.array([[-1000, 3000], [7, 70000]], np.int32), "TIFF"),
        (np.array([[0.25, -0.5], [1e5, 3.0]], np.float32), "TIFF"),
    ],
)
def test_more_than_8_bits_keep_their_values(values, kind):
    found = picture_of(opened(values, kind), None).pixels
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, values.astype(np.float32))


AS_PILLOW = {
    "bilevel": ("PNG", "1", {}),
    "fax": ("TIFF", "1", {"compression": "group4"}),
    "palette": ("PNG", "P", {}),
    "gray with nothing clear": ("PNG", "LA", {}),
    "print": ("JPEG", "CMYK", {}),
    "print, not compressed": ("TIFF", "CMYK", {}),
    "video": ("TIFF", "YCbCr", {}),
    "lightness": ("TIFF", "LAB", {}),
    "progressive": ("JPEG", "RGB", {"progressive": True, "subsampling": 2}),
    "lossy": ("WEBP", "RGB", {}),
    "avif": ("AVIF", "RGB", {}),
    "wavelets": ("JPEG2000", "RGB", {}),
    "run lengths": ("TGA", "RGBA", {"compression": "tga_rle"}),
    "with a profile": ("JPEG", "RGB", {"icc_profile": b"unreadable"}),
    "colour key": ("PNG", "RGB", {"transparency": (1, 2, 3)}),
    **{f"held {turn}": ("JPEG", "RGB", {"exif": turn}) for turn in (*range(1, 10), 99)},
}


@pytest.mark.parametrize("kind", AS_PILLOW)
def test_pixels_are_those_that_pillow_reads(kind):
    name, mode, options = AS_PILLOW[kind]
    if "exif" in options:
        exif = PIL.Image.Exif()
        exif[PIL.Image.ExifTags.Base.Orientation] = options["exif"]
        options = {"exif": exif}
    pixels = np.kron(colour(3, 4), np.ones((8, 8, 1), np.uint8))
    picture = opened(pixels, name, mode, **options)
    expected = PIL.ImageOps.exif_transpose(picture).convert("L" if mode == "1" else "RGB")
    found = picture_of(opened(pixels, name, mode, **options), None)
    assert not found.was_clear
    np.testing.assert_array_equal(found.pixels, np.asarray(expected))


def test_values_that_are_no_numbers_are_an_error():
    with pytest.raises(ValueError, match="NaN"):
        picture_of(opened(np.full((2, 2), np.nan, np.float32), "TIFF"), None)


def test_the_range_of_both_splits_becomes_0_to_255(caplog):
    def split(*images):
        pixels = np.full((len(images) + 1, 2, 2, 3), 9, np.uint8)
        deep = {i: np.full((2, 2), image, np.float32) for i, image in enumerate(images)}
        return Decoded("split", pixels, np.arange(len(pixels)), deep)

    train, test = split(100, 1100), split(2140)
    with caplog.at_level(logging.WARNING):
        bring_to_bytes([train, test])
    assert train.pixels[:, 0, 0, 1].tolist() == [0, 125, 9]
    assert test.pixels[:, 1, 1, 2].tolist() == [255, 9]
    assert "3 of 5 pictures" in caplog.text and "100 to 2140" in caplog.text
    assert "the other 2 have 8 bits" in caplog.text


@pytest.fixture
def folder(tmp_path):
    for k, name in enumerate(("a", "b")):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(12):
            PIL.Image.fromarray(colour(8, 8, 20 * k + i)).save(tmp_path / "set" / name / f"{i}.png")
    return tmp_path / "set"


def test_what_memory_has_no_room_for_is_refused_before_it_is_read(folder, monkeypatch):
    with pytest.raises(ValueError, match=r"resolution is 100000, and 24 images .* 1,440 GB"):
        load(folder, resolution=100_000)
    monkeypatch.setattr(_decode, "memory_of_machine", lambda: 24 * 64 * 3)
    with pytest.raises(ValueError, match="24 images of 8 x 8 pixels .* smaller resolution="):
        load(folder)  # what is held out is a second copy
    monkeypatch.setattr(_decode, "memory_of_machine", lambda: 2 * 24 * 64 * 3)
    assert len(load(folder).train_labels) == 20


def test_a_limit_of_the_process_counts(monkeypatch):
    import resource

    before = _room.memory_of_machine()
    monkeypatch.setattr(resource, "getrlimit", lambda what: (1000, 2000))
    assert _room.memory_of_machine() == 1000 < before
    monkeypatch.setattr(resource, "getrlimit", lambda what: (resource.RLIM_INFINITY,) * 2)
    assert _room.memory_of_machine() > 1000


@pytest.mark.parametrize("resolution", [None, 4])
def test_one_picture_too_large_is_left_out_and_named(folder, caplog, resolution):
    PIL.Image.new("1", (20_000, 20_000)).save(folder / "a" / "00.png")
    data = load(folder, resolution=resolution)
    assert len(data.train_labels) + len(data.test_labels) == 24
    assert "1 of 25 images" in caplog.text and "a/00.png" in caplog.text
