"""Image data sets: loading them, checking them, and bringing them into training space."""

from ._images import ImageData as ImageData
from ._images import check_images_per_class as check_images_per_class
from ._load import load as load
from ._preprocess import Preprocessor as Preprocessor
from ._presets import PRESETS as PRESETS
from ._presets import Preset as Preset
from ._sample import sample as sample
