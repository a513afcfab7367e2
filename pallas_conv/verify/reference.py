"""The products in float64 NumPy, one matmul a tap: an oracle sharing no code with XLA, cuDNN or the kernels."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

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
    "gelu_tanh": lambda z: z * (1 + np.tanh(_bent(z))) / 2,
}
DERIVATIVES: dict[str | None, Callable[[np.ndarray], np.ndarray]] = {  # of what is saved of them: y or z
    "relu": lambda y: np.where(y > 0, 1, 0),
    "leaky_relu": lambda y: np.where(y >= 0, 1, 0.01),
    "tanh": lambda y: 1 - y * y,
    "sigmoid": lambda y: y * (1 - y),
    "silu": lambda z: (1 + z / (1 + np.exp(z))) / (1 + np.exp(-z)),
    "gelu": lambda z: (1 + erf(z / np.sqrt(2))) / 2 + z * np.exp(-z * z / 2) / np.sqrt(2 * np.pi),
    "gelu_tanh": lambda z: (1 + np.tanh(_bent(z)) + z * _slope(z) / np.cosh(_bent(z)) ** 2) / 2,
}


def _bent(z: np.ndarray) -> np.ndarray:
    return np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)


def _slope(z: np.ndarray) -> np.ndarray:
    """The derivative of `_bent`."""
    return np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * z**2)


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


type Read = Callable[[str, np.ndarray], np.ndarray]


def exactly(name: str, a: np.ndarray) -> np.ndarray:
    """An operand, or a part of it, in float64."""
    return a.astype(np.float64)


def reference(product: Product, *operands, read: Read = exactly) -> np.ndarray:
    """The first output of a product of channels-first operands, in float64.

    read(name, part): the operands as they are multiplied, where that is not as they are.
    """
    v = {name: read(name, np.asarray(a)) for name, a in zip(product.operands, operands, strict=True)}
    if product.models is None:
        return _one(product, v)
    return np.stack([_one(product, {name: a[m] for name, a in v.items()}) for m in range(product.models)])


def _one(product: Product, v: dict[str, np.ndarray]) -> np.ndarray:
    if "a" in v:
        v = v | {"ct": v["ct"] * DERIVATIVES[product.activation](v["a"])}
    return {"dx": _dx, "dw": _dw, "db": _db}.get(product.outputs[0], _y)(product, v)


def _sizes(product: Product) -> tuple[int, int, int]:
    """Groups, and the channels of one of them: of x and of y."""
    groups = product.spec.groups
    return groups, product.in_channels // groups, product.out_channels // groups


def _y(product: Product, v: dict[str, np.ndarray]) -> np.ndarray:
    spec, (g, c, o) = product.spec, _sizes(product)
    grid = _grid(product, v["x"])
    out = np.zeros((product.batch, product.out_channels, *spec.out_spatial))
    for tap, window in _windows(spec):
        out += (v["w"][tap].reshape(g, o, c) @ _grouped(grid[window], g)).reshape(out.shape)
    return _finished(product, out, v["b"].reshape(-1, *[1] * spec.ndim) if "b" in v else 0, v.get("r", 0))


def _finished(product: Product, sums: np.ndarray, b: np.ndarray | int, r: np.ndarray | int) -> np.ndarray:
    z = sums + b + r
    return z if product.outputs == ("z",) else ACTIVATIONS[product.activation](z)


def _dx(product: Product, v: dict[str, np.ndarray]) -> np.ndarray:
    spec, (g, c, o) = product.spec, _sizes(product)
    inner, outer, extent = _inner_and_outer(product)
    grid = np.zeros(extent)
    for tap, window in _windows(spec):
        part = v["w"][tap].reshape(g, o, c).mT @ _grouped(v["ct"], g)
        grid[window] += part.reshape(*extent[:2], *spec.out_spatial)
    out = np.zeros((*extent[:2], *spec.in_spatial))
    out[inner] = grid[outer]
    return out


def _dw(product: Product, v: dict[str, np.ndarray]) -> np.ndarray:
    spec, (g, c, o) = product.spec, _sizes(product)
    grid, ct = _grid(product, v["x"]), _grouped(v["ct"], g)
    out = np.zeros((g * o, c, *spec.kernel_spatial))
    for tap, window in _windows(spec):
        out[tap] = (ct @ _grouped(grid[window], g).mT).sum(0).reshape(g * o, c)
    return out


def _db(product: Product, v: dict[str, np.ndarray]) -> np.ndarray:
    return v["ct"].sum((0, *range(2, v["ct"].ndim)))


def _grid(product: Product, x: np.ndarray) -> np.ndarray:
    """x on the padded, dilated grid."""
    inner, outer, extent = _inner_and_outer(product)
    grid = np.zeros(extent)
    grid[outer] = x[inner]
    return grid


def _inner_and_outer(product: Product) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...], tuple[int, ...]]:
    """Indices of the elements of x that the grid has, their indices in it, and its shape."""
    extent, source, target = _placement(product.spec)
    every = (np.arange(product.batch), np.arange(product.in_channels))
    return np.ix_(*every, *source), np.ix_(*every, *target), (product.batch, product.in_channels, *extent)


# ---------------------------------------------------------------- at some places


def reference_at(product: Product, at: np.ndarray, *operands, read: Read = exactly) -> np.ndarray:
    """`reference` at some places, where all would take too long.

    at: (places, axes), the indices of each: of an image all but that of its channels, of a gradient of weights or biases all.
    Returns (places, channels) of an image, otherwise (places,).
    """
    v = {name: np.asarray(a) for name, a in zip(product.operands, operands, strict=True)}
    if product.models is None:
        return _one_at(product, at, v, read)
    one = dataclasses.replace(product, models=None)
    rows = (
        _one_at(one, at[i : i + 1, 1:], {name: a[m] for name, a in v.items()}, read) for i, m in enumerate(at[:, 0])
    )
    return np.concatenate(list(rows))


def _one_at(product: Product, at: np.ndarray, v: dict[str, np.ndarray], read: Read) -> np.ndarray:
    def part(name: str, index: tuple[Any, ...]) -> np.ndarray:
        """The part of an operand; of the cotangent times the derivative."""
        found = read(name, v[name][index])
        return found * DERIVATIVES[product.activation](part("a", index)) if name == "ct" and "a" in v else found

    if product.outputs[0] == "db":
        return np.array([part("ct", (slice(None), o)).sum() for (o,) in at])
    if product.outputs[0] == "dw":
        return np.array([_weight_at(product, *place, part=part) for place in at.tolist()])
    return _pixels_at(product, at, part)


def _weight_at(product: Product, o: int, c: int, *tap: int, part: Callable[..., np.ndarray]) -> float:
    """An element of dw: the sum of all products of the pairs of pixels that its tap joins."""
    spec, (_, of_x, of_y) = product.spec, _sizes(product)
    windows = zip(
        tap, spec.in_spatial, spec.out_spatial, spec.strides, spec.input_dilation, spec.kernel_dilation, spec.padding,
        strict=True,
    )  # fmt: skip
    reads, outs = [], []
    for t, size, count, stride, up, dilation, (low, _) in windows:
        read, rest = np.divmod(np.arange(count) * stride + t * dilation - low, up)
        met = np.flatnonzero((rest == 0) & (read >= 0) & (read < size))
        outs.append(_span(met))
        reads.append(_span(read[met]))
    x = part("x", (slice(None), o // of_y * of_x + c, *reads))
    return float(np.vdot(x, part("ct", (slice(None), o, *outs))))


def _span(evenly: np.ndarray) -> slice:
    """The slice of indices that are evenly apart."""
    step = int(evenly[1] - evenly[0]) if len(evenly) > 1 else 1
    return slice(int(evenly[0]), int(evenly[-1]) + 1, step) if len(evenly) else slice(0, 0)


def _pixels_at(product: Product, at: np.ndarray, part: Callable[..., np.ndarray]) -> np.ndarray:
    spec, (g, c, o) = product.spec, _sizes(product)
    image, position, forward = at[:, 0], at[:, 1:], product.role == "fprop"
    low, dilation = np.array(spec.padding)[:, 0], np.array(spec.kernel_dilation)
    to_grid, from_grid = (spec.strides, spec.input_dilation) if forward else (spec.input_dilation, spec.strides)
    size = spec.in_spatial if forward else spec.out_spatial
    out = np.zeros((len(at), g * (o if forward else c)))
    for tap in np.ndindex(spec.kernel_spatial):
        offset = tap * dilation - low
        read, rest = np.divmod(position * to_grid + (offset if forward else -offset), from_grid)
        reads = ((rest == 0) & (read >= 0) & (read < size)).all(1)
        pixels = part("x" if forward else "ct", (image[reads], slice(None), *read[reads].T))
        weight = part("w", (..., *tap)).reshape(g, o, c)
        pixels = pixels.reshape(-1, g, c if forward else o)
        summed = np.einsum("pgc,goc->pgo" if forward else "pgo,goc->pgc", pixels, weight, optimize=True)
        out[reads] += summed.reshape(-1, out.shape[1])
    if not forward:
        return out
    b = part("b", ()) if product.bias else 0
    return _finished(product, out, b, part("r", (image, slice(None), *position.T)) if product.residual else 0)


def rounded_to_tf32(a) -> np.ndarray:
    """float32 with TF32's ten mantissa bits, ties to even."""
    bits = np.ascontiguousarray(a, np.float32).view(np.uint32)
    return truncated_to_tf32((bits + 0xFFF + ((bits >> 13) & 1)).view(np.float32))


def truncated_to_tf32(a) -> np.ndarray:
    """float32 without the 13 bits that TF32 lacks, as wgmma reads it (PTX ISA, wgmma.mma_async)."""
    return (np.ascontiguousarray(a, np.float32).view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)
