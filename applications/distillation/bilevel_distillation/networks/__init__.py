"""Networks whose last layer can be told apart from their body."""

from ._base import AbstractNetwork as AbstractNetwork
from ._base import Dense as Dense
from ._base import is_body as is_body
from ._convnet import ConvNet as ConvNet
from ._convnet import check_size as check_size
from ._convnet import relu as relu
from ._convnet import smooth_relu as smooth_relu
