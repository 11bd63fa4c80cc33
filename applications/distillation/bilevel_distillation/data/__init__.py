"""Image data sets: loading them, checking them, and bringing them into training space."""

from ._augmentation import augment as augment
from ._augmentation import augment_alike as augment_alike
from ._images import ImageData as ImageData
from ._images import check_images_per_class as check_images_per_class
from ._listing import check_apart as check_apart
from ._load import load as load
from ._preprocess import Preprocessor as Preprocessor
from ._preprocess import whitened_values as whitened_values
from ._presets import PRESETS as PRESETS
from ._presets import Preset as Preset
from ._quiet import quiet_datasets as quiet_datasets
from ._room import in_gigabytes as in_gigabytes
from ._room import memory_of_machine as memory_of_machine
from ._sample import sample as sample
from ._sample import set_apart as set_apart
