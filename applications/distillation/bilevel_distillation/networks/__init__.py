"""Networks whose last layer can be told apart from their body."""

from ._base import AbstractNetwork as AbstractNetwork
from ._base import Dense as Dense
from ._base import is_body as is_body
from ._convnet import ConvNet as ConvNet
from ._convnet import check_size as check_size
from ._find import check_name as check_name
from ._find import find as find
from ._layers import Convolution as Convolution
from ._layers import average_pool as average_pool
from ._layers import max_pool as max_pool
from ._layers import relu as relu
from ._layers import smooth_relu as smooth_relu
from ._make import GROUP as GROUP
from ._make import NETWORKS as NETWORKS
from ._make import make_network as make_network
from ._normalization import BatchNorm as BatchNorm
from ._normalization import GroupNorm as GroupNorm
from ._normalization import NormName as NormName
from ._normalization import has_batch_norm as has_batch_norm
from ._normalization import is_parameter as is_parameter
from ._normalization import make_normalization as make_normalization
from ._normalization import refresh_statistics as refresh_statistics
from ._plain import VGG11 as VGG11
from ._plain import AlexNet as AlexNet
from ._resnet import ResNet18 as ResNet18

__all__ = [
    "AbstractNetwork",
    "AlexNet",
    "BatchNorm",
    "ConvNet",
    "Convolution",
    "Dense",
    "GROUP",
    "GroupNorm",
    "NETWORKS",
    "NormName",
    "ResNet18",
    "VGG11",
    "average_pool",
    "check_name",
    "check_size",
    "find",
    "has_batch_norm",
    "is_body",
    "is_parameter",
    "make_network",
    "make_normalization",
    "max_pool",
    "refresh_statistics",
    "relu",
    "smooth_relu",
]
