"""Many channels a group: all windows side by side as columns, and a matrix product.

Columns are ordered by channel, then tap, so that neither w nor dw is transposed.
"""

import math

from jax import Array, lax

from ...spec import ConvSpec
from ..formulation import Cost, Formulation, How
from ..sizes import Sizes
from .matmuls import MOST_MATMULS, copies_of_w, dw_factor, grouped, merges_batch, multiply, outer
from .windows import stacked_windows


def im2col(x: Array, w: Array, spec: ConvSpec, how: How) -> Array:
    """All windows side by side, then one matrix product (https://hal.science/inria-00112631)."""
    n, o = x.shape[0], w.shape[0]
    several = math.prod(spec.kernel_spatial) > 1
    if spec.groups == 1 and several and merges_batch(n, o, w.size // o, math.prod(spec.out_spatial)):
        y = lax.dot_general(w.reshape(o, -1), _columns_of_all(x, spec), (((1,), (0,)), ((), ())), **how.of_lax)
        return y.reshape(o, n, *spec.out_spatial).swapaxes(0, 1)
    y = multiply(w.reshape(spec.groups, w.shape[0] // spec.groups, -1), columns(x, spec), how)
    return y.reshape(x.shape[0], w.shape[0], *spec.out_spatial)


def im2col_wgrad(x: Array, ct: Array, spec: ConvSpec, how: How) -> Array:
    """The matrix product of the cotangent and the columns."""
    (n, o), k, pixels = ct.shape[:2], x.shape[1] * math.prod(spec.kernel_spatial), math.prod(spec.out_spatial)
    if spec.groups == 1 and merges_batch(n, o, k, pixels, dw_factor(spec)):
        ct = ct.swapaxes(0, 1).reshape(o, -1)
        dw = lax.dot_general(ct, _columns_of_all(x, spec), (((1,), (1,)), ((), ())), **how.of_lax)
        return dw.reshape(o, -1, *spec.kernel_spatial)
    return outer(ct, columns(x, spec), spec, how).reshape(ct.shape[1], -1, *spec.kernel_spatial)


def columns(x: Array, spec: ConvSpec) -> Array:
    """(N, groups, C // groups * taps, pixels)."""
    return grouped(stacked_windows(x, spec, 2), spec)


def _columns_of_all(x: Array, spec: ConvSpec) -> Array:
    """(C * taps, N * pixels), without groups: of x with the batch beside its pixels, which is smaller than the columns."""
    x = lax.optimization_barrier(x.swapaxes(0, 1))
    return stacked_windows(x, spec, 1).reshape(x.shape[0] * math.prod(spec.kernel_spatial), -1)


# ---------------------------------------------------------------- conditions and costs


def _few_taps_conv(s: Sizes) -> bool:
    return s.is_conv and s.taps <= MOST_MATMULS


def _few_taps_wgrad(s: Sizes) -> bool:
    return s.is_wgrad and s.taps <= MOST_MATMULS


def _cost(s: Sizes) -> Cost:
    return Cost(s.useful_flops, s.x + 2 * s.columns + s.w + s.y, s.taps, s.columns + copies_of_w(s))


FORMULATIONS = (
    Formulation("im2col", _few_taps_conv, _cost, fprop=im2col, blocks=1, matmul=True),
    Formulation("im2col_wgrad", _few_taps_wgrad, _cost, wgrad=im2col_wgrad, blocks=1, matmul=True),
)
