"""Instructions that Mosaic GPU has no names for, or gives in another form: the other part of the seam to it.

Its own `mma` divides one matrix product among the warps, of which each has all of a left operand's columns. Here each warp
multiplies 16 rows and 8 columns of its own by a matrix of its own.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.experimental.mosaic.gpu import FragmentedArray, utils
from jax.experimental.pallas.mosaic_gpu import (
    Layout,
    RefType,
    ShapeDtypeStruct,
    Tiling,
    broadcasted_iota,
    inline_mgpu,
    wgmma,
)
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import arith, llvm, vector

KINDS = {"bfloat16": "bf16", "float16": "f16"}
# [4, 32], a number for each thread: lane l of warp w has that of row w and column l.
ONE_A_LANE = Layout.TILED(Tiling(((4, 32), (1,))), (-3,), (-2,), -1)
# [rows, 64], two neighbours for each lane: warp w has rows w, w + 4, ..., which are 128 bytes each if numbers have 16 bits.
PAIRS_OF_A_ROW = Layout.TILED(Tiling(((4, 64), (2,))), (-3,), (-2,), -1)


def wgmma_from_registers(a: Array, products: Sequence[tuple[Any, Any]]) -> None:
    """acc += a @ b for every (acc, b), as `wgmma`, with `a` [64, k] in the same registers for all of them.

    Mosaic begins each product with a barrier for LLVM, an empty assembly that takes the registers of `a` and returns them: so
    what fills them cannot move past the fence that follows. As it changes them in place, LLVM copies `a` wherever a later
    product reads it. ptxas 12.9 and 13.0 merge all the copies. 13.5 keeps those made while a product is under way, and where
    registers do not suffice for them, each product waits for the one before. One barrier, before the first fence, is enough.

    Where Mosaic makes other barriers, none is removed: tests/kernels/wgrad/test_aot.py would say so.
    """
    for acc, b in products:
        wgmma(acc, a, b)

    @inline_mgpu(arg_types=(Layout.WGMMA,))
    def keep_the_first_barrier(_: Any, a: Any) -> None:
        block, registers = ir.InsertionPoint.current.block, list(a.registers.flat)
        barriers = [op for op in block.operations if isinstance(op, llvm.InlineAsmOp) and not op.asm_string.value]
        about_a = [op for op in barriers if [_register(word) for word in op.operands] == registers]
        for op in about_a[1:]:
            op.result.replace_all_uses_with(about_a[0].result)
            op.operation.erase()

    keep_the_first_barrier(a)


def _register(word: Any) -> Any:
    """The register that a word was taken from, as barriers take them, or None."""
    for name in ("vector.extract", "vector.bitcast"):
        if getattr(word.owner, "name", None) != name:
            return None
        word = word.owner.operands[0]
    return word


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
        sums = sums_of(acc)
        for together in itertools.batched(zip(lefts, rights, strict=True), 2):
            a = [word(register) for left, _ in together for register in left.registers.flat]
            b = [word(right.registers.item()) for _, right in together]
            sums = instruction(sums, a, b, kind)
        return like(acc, sums)

    result: Array = multiplied(acc, list(lefts), list(rights))
    return result


def mma_transposed(acc: Array, lefts: Sequence[Array], right: Array, layouts: tuple[Any, Any]) -> Array:
    """acc + [left0, left1]^T @ right, for every warp: float32 [16, 8] + 16-bit [16, 8 and 8]^T @ [16, 8].

    Operands are given transposed, [channels, 16]. With one left, zeros take the place of the other.
    layouts: of acc, and of operands.
    """
    of_acc, of_operand = layouts
    kind, shape = KINDS[jnp.dtype(right.dtype).name], ShapeDtypeStruct(acc.shape, jnp.float32, layout=of_acc)

    @inline_mgpu(arg_types=(of_acc, [of_operand] * len(lefts), of_operand), return_type=shape)
    def multiplied(_: Any, acc: Any, lefts: list[Any], right: Any) -> Any:
        sums = sums_of(acc)
        nothing = utils.c(0, ir.IntegerType.get_signless(32))
        rows = [[word(register) for register in left.registers.flat] for left in lefts]
        upper, lower = rows if len(rows) == 2 else (*rows, [nothing] * len(rows[0]))
        a = [word for words in zip(upper, lower, strict=True) for word in words]
        return like(acc, instruction(sums, a, [word(register) for register in right.registers.flat], kind))

    result: Array = multiplied(acc, list(lefts), right)
    return result


def multiply_add_rows(acc: Array, x: Array, y: Array, layout: Any) -> Array:
    """acc [4, 32] + the sums of x * y over the rows that each of four warps has, as fused multiply-adds, one by one.

    acc has the layout `ONE_A_LANE`, x and y [rows, 32] have this one, in which a lane has one column.
    """
    shape = ShapeDtypeStruct(acc.shape, jnp.float32, layout=ONE_A_LANE)

    @inline_mgpu(arg_types=(ONE_A_LANE, layout, layout), return_type=shape)
    def added(_: Any, acc: Any, x: Any, y: Any) -> Any:
        total = acc.registers.item()
        for a, b in zip(x.registers.flat, y.registers.flat, strict=True):
            total = llvm.intr_fma(a, b, total)
        return fragment([total], acc.shape, acc.layout)

    result: Array = added(acc, x, y)
    return result


def add_rows(acc: Array, x: Array) -> Array:
    """acc [4, 64] + the sums of the rows of x [rows, 64] that each of four warps has, both of the layout `PAIRS_OF_A_ROW`."""
    shape = ShapeDtypeStruct(acc.shape, jnp.float32, layout=PAIRS_OF_A_ROW)

    @inline_mgpu(arg_types=(PAIRS_OF_A_ROW, PAIRS_OF_A_ROW), return_type=shape)
    def added(_: Any, acc: Any, x: Any) -> Any:
        total = acc.registers.item()
        for row in x.registers.flat:
            total = arith.addf(total, row)
        return fragment([total], acc.shape, acc.layout)

    result: Array = added(acc, x)
    return result


def opaque(index: Array) -> Array:
    """The same index, int32, moved by an instruction that the compiler cannot see through.

    So it cannot tell that an address is the same in each turn of a loop, and keeps no register for it from turn to turn.
    """
    shape = ShapeDtypeStruct((), jnp.int32, layout=Layout.WG_SPLAT)

    @inline_mgpu(arg_types=(Layout.WG_SPLAT,), return_type=shape)
    def hidden(_: Any, index: Any) -> Any:
        value = index.registers.item()
        moved = llvm.inline_asm(value.type, [value], "mov.u32 $0, $1;", "=r,r", has_side_effects=True)
        return FragmentedArray.splat(moved, (), is_signed=True)

    result: Array = hidden(index)
    return result


def warp_barrier() -> None:
    """Let the threads of each warp wait for one another. ptxas moves no access to memory past it."""
    inline_mgpu()(lambda _: utils.warp_barrier())()


def windows(ref: Any, starts: Sequence[int], of_group: tuple[int, int], layout: Any) -> list[Array]:
    """Load ref[start : start + 16] for each of these starts, ref being shared memory [rows, 32]. No number is loaded twice.

    of_group: (i, group), to load for each column the i-th of its group of columns, which are so many.
    layout: that in which lane l of warp w has column l of rows 4 w to 4 w + 3.
    """
    i, group = of_group
    shape = ShapeDtypeStruct((16, 32), ref.dtype, layout=layout)

    @inline_mgpu(arg_types=(RefType(),), return_type=[shape] * len(starts))
    def loaded(_: Any, ref: Any) -> list[Any]:
        index, four, lanes = ir.IndexType.get(), utils.c(4, ir.IndexType.get()), utils.c(32, ir.IndexType.get())
        thread = arith.index_cast(index, utils.thread_idx())
        row = arith.muli(arith.remui(arith.divui(thread, lanes), four), four)
        column = arith.remui(thread, lanes)
        if group > 1:  # groups are powers of two
            first = arith.subi(column, arith.remui(column, utils.c(group, index)))
            column = arith.addi(first, utils.c(i, index))
        one = ir.VectorType.get((1,), ir.MemRefType(ref.type).element_type)
        wanted = sorted({start + n for start in starts for n in range(4)})
        at = {n: vector.load(one, ref, [arith.addi(row, utils.c(n, index)), column]) for n in wanted}
        return [fragment([at[start + n] for n in range(4)], (16, 32), layout.to_mgpu()) for start in starts]

    results: list[Array] = loaded(ref)
    return results


def diagonal(a: Array, first: int, layout: Any) -> Array:
    """[rows, columns] -> [columns]: of each 8x8 matrix in the rows from `first` on, its diagonal. Of this layout."""
    row, column = (broadcasted_iota(jnp.int32, a.shape, axis, layout=layout) for axis in (0, 1))
    return jnp.sum(jnp.where(row == lax.rem(column, jnp.int32(8)) + first, a, jnp.float32(0)), axis=0)


def sums_of(acc: Any) -> list[Any]:
    """The sums that a thread has of an accumulator."""
    return [element(pair, i) for pair in acc.registers.flat for i in range(2)]


def word(register: Any) -> Any:
    """The 32 bits of two packed numbers."""
    return utils.bitcast(register, ir.IntegerType.get_signless(32))


def element(pair: Any, i: int) -> Any:
    """One of two packed numbers."""
    return vector.extract(pair, dynamic_position=[], static_position=ir.DenseI64ArrayAttr.get([i]))


def like(other: Any, elements: list[Any]) -> Any:
    """An array like another one, with these elements in its registers, two in each."""
    pairs = ir.VectorType.get((2,), elements[0].type)
    registers = [vector.from_elements(pairs, list(pair)) for pair in itertools.batched(elements, 2)]
    return fragment(registers, other.shape, other.layout)


def fragment(registers: list[Any], shape: tuple[int, ...], layout: Any) -> Any:
    """The array with these registers."""
    found = np.empty(len(registers), dtype=object)
    found[:] = registers
    return FragmentedArray(_registers=found.reshape(layout.registers_shape(shape)), _layout=layout, _is_signed=None)


def instruction(sums: list[Any], a: list[Any], b: list[Any], kind: str) -> list[Any]:
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
