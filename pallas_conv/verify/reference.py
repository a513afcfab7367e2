"""The three products in float64 NumPy, one matmul a tap: an oracle sharing no code with XLA, cuDNN or the kernels."""

import itertools
from collections.abc import Callable

import numpy as np
from scipy.special import erf

from ..spec import ConvSpec, Product

ACTIVATIONS: dict[str | None, Callable[[np.ndarray], np.ndarray]] = {  # of float64
    None: lambda z: z,
    "relu": lambda z: np.maximum(z, 0),
    "leaky_relu": lambda z: np.where(z >= 0, z, 0.01 * z),
    "tanh": np.tanh,
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "silu": lambda z: z / (1 + np.exp(-z)),
    "gelu": lambda z: z * (1 + erf(z / np.sqrt(2))) / 2,
    "gelu_tanh": lambda z: z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))) / 2,
}


def _placement(spec: ConvSpec):
    """Positions of the elements of x in the padded, dilated grid that the kernel slides over, and the grid's extent."""
    extent, source, target = [], [], []
    for size, (low, high), step in zip(spec.in_spatial, spec.padding, spec.input_dilation, strict=True):
        n = max(0, (size - 1) * step + 1) + low + high
        at = np.arange(size) * step + low
        inside = (at >= 0) & (at < n)
        extent.append(n)
        source.append(np.flatnonzero(inside))
        target.append(at[inside])
    return extent, source, target


def _windows(spec: ConvSpec):
    """Pairs, one for each tap: its index, and the part of the grid that it multiplies."""
    for tap in itertools.product(*map(range, spec.kernel_spatial)):
        first = [t * d for t, d in zip(tap, spec.kernel_dilation, strict=True)]
        yield (..., *tap), (..., *(
            slice(a, a + (n - 1) * s + 1, s) for a, n, s in zip(first, spec.out_spatial, spec.strides, strict=True)
        ))  # fmt: skip


def _grouped(a: np.ndarray, groups: int) -> np.ndarray:
    """(N, C, *space) -> (N, groups, C // groups, pixels)"""
    return a.reshape(a.shape[0], groups, a.shape[1] // groups, -1)


def _one(product: Product, *operands: np.ndarray) -> np.ndarray:
    spec, n, c, o = product.spec, product.batch, product.in_channels, product.out_channels
    g, kernel = spec.groups, (product.out_channels, product.in_channels // spec.groups, *spec.kernel_spatial)
    extent, source, target = _placement(spec)
    every = (np.arange(n), np.arange(c))
    inner, outer = np.ix_(*every, *source), np.ix_(*every, *target)
    grid = np.zeros((n, c, *extent))
    if product.role == "dgrad":
        dy, w = operands
        for tap, window in _windows(spec):
            part = w[tap].reshape(g, o // g, c // g).mT @ _grouped(dy, g)
            grid[window] += part.reshape(n, c, *spec.out_spatial)
        out = np.zeros((n, c, *spec.in_spatial))
        out[inner] = grid[outer]
        return out
    x, other, *added = operands
    grid[outer] = x[inner]
    out = np.zeros(kernel if product.role == "wgrad" else (n, o, *spec.out_spatial))
    for tap, window in _windows(spec):
        part = _grouped(grid[window], g)
        if product.role == "wgrad":
            out[tap] = (_grouped(other, g) @ part.mT).sum(0).reshape(o, c // g)
        else:
            out += (other[tap].reshape(g, o // g, c // g) @ part).reshape(out.shape)
    if product.role == "fprop":
        out += added[0].reshape(-1, *[1] * spec.ndim) if product.bias else 0
        out += added[-1] if product.residual else 0
        out = out if product.outputs == ("z",) else ACTIVATIONS[product.activation](out)
    return out


def reference(product: Product, *operands) -> np.ndarray:
    """The product of channels-first operands, in float64 whatever they came in: its y, or its z if that is its only output."""
    exact = [np.asarray(a).astype(np.float64) for a in operands]
    if product.models is None:
        return _one(product, *exact)
    return np.stack([_one(product, *(a[m] for a in exact)) for m in range(product.models)])


def reference_at(product: Product, at: np.ndarray, *operands) -> np.ndarray:
    """`reference` of a forward product or an input gradient at some pixels, where all would take too long.

    at: (pixels, 1 + spatial axes), the image and the position of each. Returns (pixels, channels).
    """
    spec, g = product.spec, product.spec.groups
    source, w, *added = (np.asarray(a) for a in operands)
    forward, image, position = product.role == "fprop", at[:, 0], at[:, 1:]
    low, dilation = np.array(spec.padding)[:, 0], np.array(spec.kernel_dilation)
    to_grid, from_grid = (spec.strides, spec.input_dilation) if forward else (spec.input_dilation, spec.strides)
    size = spec.in_spatial if forward else spec.out_spatial
    channels = (product.in_channels, product.out_channels)[:: 1 if forward else -1]  # that are read, that are written
    out = np.zeros((len(at), channels[1]))
    for tap in np.ndindex(spec.kernel_spatial):
        offset = tap * dilation - low
        read, rest = np.divmod(position * to_grid + (offset if forward else -offset), from_grid)
        reads = ((rest == 0) & (read >= 0) & (read < size)).all(1)
        pixels = source[image[reads], :, *read[reads].T].astype(np.float64).reshape(-1, g, channels[0] // g)
        weight = w[(..., *tap)].astype(np.float64).reshape(g, product.out_channels // g, -1)
        summed = np.einsum("pgc,goc->pgo" if forward else "pgo,goc->pgc", pixels, weight, optimize=True)
        out[reads] += summed.reshape(-1, channels[1])
    out += added[0].astype(np.float64) if product.bias else 0
    out += added[-1][image, :, *position.T].astype(np.float64) if product.residual else 0
    return out if product.outputs == ("z",) else ACTIVATIONS[product.activation](out)


def rounded_to_tf32(a) -> np.ndarray:
    """float32 with TF32's ten mantissa bits, ties to even."""
    bits = np.ascontiguousarray(a, np.float32).view(np.uint32)
    return truncated_to_tf32((bits + 0xFFF + ((bits >> 13) & 1)).view(np.float32))


def truncated_to_tf32(a) -> np.ndarray:
    """float32 without the 13 bits that TF32 lacks, as wgmma reads it (PTX ISA, wgmma.mma_async)."""
    return (np.ascontiguousarray(a, np.float32).view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)
