"""Published networks in plain equinox, with nothing of this package in them; depths as published, widths by a divisor."""

from . import convnext, dcgan, efficientnet, mamba, resnet, unet, unet3d, wavenet
from .common import IMAGES as IMAGES
from .common import Network as Network

ROOMS = (resnet, convnext, efficientnet, unet, unet3d, dcgan, wavenet, mamba)
NETWORKS: dict[str, Network] = {room.NETWORK.name: room.NETWORK for room in ROOMS}
DIVIDE = 4  # published channels, for training steps that a CPU takes in a second or so
