"""Parts that the networks share: widths, norms, losses, and the form of a training step."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import optax
from jax import Array

IMAGES = 4  # of a batch, or volumes, or sequences
SIDE = 64  # of an image, in pixels
CLASSES = 1000  # of ImageNet
LEAST = 16  # channels


def scaled(channels: int, divide: int) -> int:
    """Published channels divided, at least 16; inputs and classes keep their number."""
    return max(channels // divide, min(channels, LEAST))


def group_norm(channels: int) -> eqx.nn.GroupNorm:
    """Group norm for batch norm, whose running statistics are no part of a benchmark. Eight groups, or as many as divide."""
    return eqx.nn.GroupNorm(math.gcd(channels, 8), channels)


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Mean over a batch: logits (N, classes, ...), labels (N, ...)."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels, axis=1).mean()


class Scale(NamedTuple):
    """A batch of training.

    images  examples: images, volumes or sequences
    side    pixels, voxels or samples of an example in every dimension
    """

    images: int
    side: int


SMALL = Scale(IMAGES, SIDE)


@dataclasses.dataclass(frozen=True)
class Network:
    """A network and its training step.

    build      (key, divide) -> model in plain equinox, unbatched, channels first, its channels those published over `divide`
    batch      (key, images, side) -> the arrays of a training step; without a side, one that a CPU takes in a second or so
    start      model -> state of the optimiser
    step       (model, state, *arrays) -> (model, state, loss)
    published  the batch of one GPU in the publication, its authors' code or common use
    """

    name: str
    build: Callable[[Array, int], Any]
    batch: Callable[..., tuple[Array, ...]]
    start: Callable[[Any], Any]
    step: Callable[..., tuple[Any, Any, Array]]
    published: Scale = SMALL


def start(optimizer: optax.GradientTransformation, model: Any) -> Any:
    return optimizer.init(eqx.filter(model, eqx.is_inexact_array))


def descend(
    optimizer: optax.GradientTransformation, loss: Callable[..., Array], model: Any, state: Any, *arrays: Any
) -> tuple[Any, Any, Array]:
    """One step down the gradient of loss(model, *arrays)."""
    value, gradients = eqx.filter_value_and_grad(loss)(model, *arrays)
    with jax.numpy_dtype_promotion("standard"):  # optax raises floats to the power of a count
        updates, state = optimizer.update(gradients, state, eqx.filter(model, eqx.is_inexact_array))
    return eqx.apply_updates(model, updates), state, value


def supervised(
    name: str,
    build: Callable[[Array, int], Any],
    batch: Callable[..., tuple[Array, Array]],
    optimizer: optax.GradientTransformation,
    published: Scale = SMALL,
) -> Network:
    """Cross entropy of the model's logits, one optimiser."""

    def loss(model: Any, x: Array, labels: Array) -> Array:
        return cross_entropy(jax.vmap(model)(x), labels)

    return Network(
        name,
        build,
        batch,
        lambda model: start(optimizer, model),
        lambda model, state, *arrays: descend(optimizer, loss, model, state, *arrays),
        published,
    )


def photographs(key: Array, images: int, side: int = SIDE) -> tuple[Array, Array]:
    """Stand-ins for ImageNet: (N, 3, side, side) and their classes (N,)."""
    x, y = jax.random.split(key)
    return jax.random.normal(x, (images, 3, side, side)), jax.random.randint(y, (images,), 0, CLASSES)
