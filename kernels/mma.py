"""The instruction `mma.sync`, for warps that have no operand in common: the other part of the seam to Mosaic GPU.

Mosaic's own `mma` divides one matrix product among the warps, of which each has all of a left operand's columns. Here each warp
multiplies 16 rows and 8 columns of its own by a matrix of its own.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.experimental.mosaic.gpu import utils
from jax.experimental.pallas.mosaic_gpu import ShapeDtypeStruct, broadcasted_iota, inline_mgpu, layout_cast
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import llvm, vector

KINDS = {"bfloat16": "bf16", "float16": "f16"}


def mma(acc: Array, lefts: Sequence[Array], rights: Sequence[Array], layouts: tuple[Any, Any, Any]) -> Array:
    """acc + left0 @ right0 + left1 @ right1 + ..., for every warp: float32 [16, 8] + 16-bit [16, 8] @ [8, 8] each.

    layouts: of acc, of a left operand and of a right one, which must give each lane what PTX wants of it ("Matrix Fragments for
    mma.m16n8k8" and "for mma.m16n8k16" in its ISA). Two products are one instruction, as long as there are two.
    """
    of_acc, of_left, of_right = layouts
    kind, n = KINDS[jnp.dtype(lefts[0].dtype).name], len(lefts)
    shape = ShapeDtypeStruct(acc.shape, jnp.float32, layout=of_acc)

    @inline_mgpu(arg_types=(of_acc, [of_left] * n, [of_right] * n), return_type=shape)
    def multiplied(_: Any, acc: Any, lefts: list[Any], rights: list[Any]) -> Any:
        sums = [_element(pair, i) for pair in acc.registers.flat for i in range(2)]
        for together in itertools.batched(zip(lefts, rights, strict=True), 2):
            a = [_word(register) for left, _ in together for register in left.registers.flat]
            b = [_word(right.registers.item()) for _, right in together]
            sums = _instruction(sums, a, b, kind)
        return _like(acc, sums)

    result: Array = multiplied(acc, list(lefts), list(rights))
    return result


def diagonals(v: Array, layout: Any) -> Array:
    """[rows] -> [rows, 8], in this layout: an 8x8 matrix of every eight numbers, on its diagonal, with zeros beside them."""
    shape = (*v.shape, 8)
    row, column = (broadcasted_iota(jnp.int32, shape, axis, layout=layout) for axis in (0, 1))
    return jnp.where(lax.rem(row, jnp.int32(8)) == column, layout_cast(lax.broadcast_in_dim(v, shape, (0,)), layout), 0)


def _word(register: Any) -> Any:
    return utils.bitcast(register, ir.IntegerType.get_signless(32))


def _element(pair: Any, i: int) -> Any:
    return vector.extract(pair, dynamic_position=[], static_position=ir.DenseI64ArrayAttr.get([i]))


def _like(fragment: Any, elements: list[Any]) -> Any:
    """The fragment with these elements in its registers, two in each."""
    pairs = ir.VectorType.get((2,), elements[0].type)
    registers = np.empty(len(elements) // 2, dtype=object)
    registers[:] = [vector.from_elements(pairs, list(pair)) for pair in itertools.batched(elements, 2)]
    shaped = registers.reshape(fragment.registers.shape)
    return type(fragment)(_registers=shaped, _layout=fragment.layout, _is_signed=None)


def _instruction(sums: list[Any], a: list[Any], b: list[Any], kind: str) -> list[Any]:
    """sums [16, 8] + a [16, k] @ b [k, 8]: k is 8 for every register of b, and for two of a."""
    numbers = itertools.count()
    group = lambda n: "{" + ", ".join(f"${next(numbers)}" for _ in range(n)) + "}"
    names = ", ".join([group(4), group(len(a)), group(len(b)), group(4)])
    text = f"mma.sync.aligned.m16n8k{8 * len(b)}.row.col.f32.{kind}.{kind}.f32 {names};"
    constraints = ",".join(["=f"] * 4 + ["r"] * len(a + b) + ["f"] * 4)
    number = ir.F32Type.get()
    four = llvm.StructType.get_literal([number] * 4)
    found = llvm.inline_asm(four, [*a, *b, *sums], text, constraints, has_side_effects=False)
    return [llvm.extractvalue(number, found, [i]) for i in range(4)]
