"""Real photographs, patches to train on, and photographs held out. Everything is read from the scikit-image wheel.

Arrays are channels first, float32, in [0, 1].
"""

from importlib import resources
from typing import NamedTuple

import numpy as np
from skimage.io import imread

# Only files inside the wheel, opened by path: `skimage.data.<name>()` would download a missing one.
TRAINING = ("astronaut.png", "rocket.jpg", "motorcycle_left.png", "motorcycle_right.png", "hubble_deep_field.jpg")
HELD_OUT = ("chelsea.png", "coffee.png")
SIGMA = 25 / 255  # the customary noise level of denoising papers


class Pair(NamedTuple):
    noisy: np.ndarray
    clean: np.ndarray


def photograph(name: str) -> np.ndarray:
    """One RGB photograph, (3, height, width)."""
    with resources.as_file(resources.files("skimage") / "data" / name) as path:
        pixels = imread(path)
    return np.ascontiguousarray(np.moveaxis(pixels.astype(np.float32) / 255, -1, 0))


def add_noise(clean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return clean + SIGMA * rng.standard_normal(clean.shape, dtype=np.float32)


class Patches:
    """Step -> a batch of flipped, turned, noisy patches. The same seed and step give the same batch, whoever asks."""

    def __init__(self, seed: int, batch: int = 8, size: int = 48) -> None:
        self.seed, self.batch, self.size = seed, batch, size
        self.photographs = [photograph(name) for name in TRAINING]

    def __call__(self, step: int) -> Pair:
        rng = np.random.default_rng((self.seed, step))
        clean = np.stack([self._patch(rng) for _ in range(self.batch)])
        return Pair(add_noise(clean, rng), clean)

    def _patch(self, rng: np.random.Generator) -> np.ndarray:
        source = self.photographs[rng.integers(len(self.photographs))]
        top, left = (rng.integers(side - self.size + 1) for side in source.shape[1:])
        patch = source[:, top : top + self.size, left : left + self.size]
        patch = np.rot90(patch, rng.integers(4), axes=(1, 2))
        return patch[:, :, ::-1] if rng.integers(2) else patch


def held_out(seed: int, height: int = 288, width: int = 448) -> Pair:
    """The middle of every held-out photograph, with noise that does not depend on how long training took."""
    rng = np.random.default_rng((seed, 2**32 - 1))
    clean = np.stack([_middle(photograph(name), height, width) for name in HELD_OUT])
    return Pair(add_noise(clean, rng), clean)


def _middle(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    top, left = (picture.shape[1] - height) // 2, (picture.shape[2] - width) // 2
    return picture[:, top : top + height, left : left + width]


def psnr(estimate: np.ndarray, clean: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB; both sides are what a screen would show, that is clipped to [0, 1]."""
    error = np.clip(np.asarray(estimate, np.float64), 0, 1) - np.clip(np.asarray(clean, np.float64), 0, 1)
    return float(-10 * np.log10(np.mean(error**2)))
