"""Register arithmetic where NumPy's operators are not PTX's: on arrays of a warp's 32 lanes, each of its PTX type.

Titles are those of "Instruction Set" in the PTX ISA. Names here are what the compiled expressions call.
"""

import numpy as np

LANES = np.arange(32, dtype=np.uint32)
UNSIGNED: dict[int, type] = {8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}
SIGNED: dict[int, type] = {8: np.int8, 16: np.int16, 32: np.int32, 64: np.int64}
FLOATING: dict[int, type] = {16: np.float16, 32: np.float32, 64: np.float64}
SMALLEST_NORMAL = np.float32(2.0**-126)


def bits_of(a: np.ndarray) -> int:
    return 8 * a.dtype.itemsize


def _cut(exact: list[int], dtype: np.dtype) -> np.ndarray:
    """The low bits of integers, as an integer type; NumPy by itself would make floating-point numbers of large ones."""
    bits = 8 * dtype.itemsize
    return np.array([value & ((1 << bits) - 1) for value in exact], UNSIGNED[bits]).view(dtype)


def high_half(a, b):
    """Integer Arithmetic Instructions: mul.hi."""
    bits = bits_of(a)
    if bits == 64:
        exact = [x * y >> 64 for x, y in zip(a.tolist(), b.tolist(), strict=True)]
        return _cut(exact, a.dtype)
    wide = (SIGNED if a.dtype.kind == "i" else UNSIGNED)[64]
    return ((a.astype(wide) * b.astype(wide)) >> wide(bits)).astype(a.dtype)


def divide(a, b):
    """Integer Arithmetic Instructions: div, towards zero. Of a division by zero the ISA says nothing; GPUs give all ones."""
    quotients = [
        -1 if y == 0 else abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)
        for x, y in zip(a.tolist(), b.tolist(), strict=True)
    ]
    return _cut(quotients, a.dtype)


def remainder(a, b):
    """Integer Arithmetic Instructions: rem, of the sign of the dividend."""
    return a - divide(a, b) * b


def half(a, which, kind):
    """Half Precision Comparison Instructions: the lower or the upper (0, 1) of two packed numbers, as float32."""
    return number(((a >> np.uint32(16 * which)) & np.uint32(0xFFFF)).astype(np.uint16), kind)


def number(bits, kind):
    """The float32 that the bits of a 16-bit number stand for."""
    if kind == "f16":
        return bits.view(np.float16).astype(np.float32)
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def rounded(a, kind):
    """Data Movement and Conversion Instructions: cvt.rn to 16-bit numbers, as their bits, of what float64 has exactly.

    To bf16 by way of a float32 that is rounded to odd, so that rounding it again is as if done once.
    """
    exact = a.astype(np.float64)
    if kind == "f16":
        return exact.astype(np.float16).view(np.uint16)
    near = exact.astype(np.float32)
    bits = near.view(np.uint32) - (np.abs(near.astype(np.float64)) > np.abs(exact))
    return bf16_bits((bits | (near.astype(np.float64) != exact)).astype(np.uint32).view(np.float32)).astype(np.uint16)


def combined(operator, a, b, kind):
    """Half Precision Floating Point Instructions: add, sub or mul of 16-bit numbers, as bits; float64 has results exactly,
    or as near to their larger argument as they are."""
    return rounded(operator(a.astype(np.float64), b.astype(np.float64)), kind)


def shift_left(a, n):
    """Logic and Shift Instructions: shl; amounts beyond the register's width count as its width."""
    bits = bits_of(a)
    return np.where(n < bits, a << np.minimum(n, bits - 1).astype(a.dtype), a.dtype.type(0))


def shift_right(a, n):
    """Logic and Shift Instructions: shr, which fills with the sign of signed types; amounts as those of shl."""
    bits = bits_of(a)
    shifted = a >> np.minimum(n, bits - 1).astype(a.dtype)
    return shifted if a.dtype.kind == "i" else np.where(n < bits, shifted, a.dtype.type(0))


def funnel_shift(low, high, n, left):
    """Logic and Shift Instructions: shf, a word of the two that `high` and `low` are together, shifted by up to 32."""
    both, n = (high.astype(np.uint64) << np.uint64(32)) | low, n.astype(np.uint64)
    return (both >> (np.uint64(32) - n if left else n)).astype(np.uint32)


def extract(a, position, length):
    """Integer Arithmetic Instructions: bfe, whose position and length are eight bits each."""
    bits, unsigned = bits_of(a), UNSIGNED[bits_of(a)]
    raw, position, length = a.view(unsigned), position & np.uint32(255), length & np.uint32(255)
    there = np.minimum(length, bits - np.minimum(position, bits)).astype(np.uint32)  # bits of the field that a has
    ones: np.ndarray = np.full(32, (1 << bits) - 1, unsigned)
    above = shift_left(ones, there)
    field = shift_right(raw, position) & ~above
    if a.dtype.kind != "i":
        return field
    last = np.minimum(position.astype(np.int64) + length - 1, bits - 1).clip(0).astype(np.uint32)
    negative = (length > 0) & (shift_right(raw, last) & unsigned(1)).astype(bool)
    return np.where(negative, field | above, field)


def fused(a, b, c):
    """Floating Point Instructions: fma.rn. The product is exact in float64; the sum is rounded there, then to float32."""
    return (a.astype(np.float64) * b + c).astype(np.float32)


def fused_down(a, b, c):
    """Floating Point Instructions: fma.rm, towards minus infinity."""
    exact = a.astype(np.float64) * b + c
    nearest = exact.astype(np.float32)
    return np.where(nearest.astype(np.float64) > exact, np.nextafter(nearest, np.float32(-np.inf)), nearest)


def flush(a):
    """The modifier .ftz: subnormal numbers count as zeros of their sign."""
    return np.where(np.abs(a) < SMALLEST_NORMAL, np.copysign(np.float32(0), a), a)


def bf16_bits(a):
    """Data Movement and Conversion Instructions: cvt.rn.bf16.f32, to nearest even; a NaN becomes 0x7fff."""
    raw = a.view(np.uint32).astype(np.uint64)
    rounded = ((raw + 0x7FFF + ((raw >> np.uint64(16)) & np.uint64(1))) >> np.uint64(16)).astype(np.uint32)
    return np.where(np.isnan(a), np.uint32(0x7FFF), rounded)


def f16_bits(a):
    """Data Movement and Conversion Instructions: cvt.rn.f16.f32."""
    return a.astype(np.float16).view(np.uint16).astype(np.uint32)


def saturate(a):
    """Data Movement and Conversion Instructions: cvt.sat, to [0, 1]; a NaN becomes 0."""
    return np.where(np.isnan(a), np.float32(0), np.clip(a, np.float32(0), np.float32(1)))


def to_integer(a, dtype, rounded):
    """Data Movement and Conversion Instructions: cvt to integers, which clamps; a NaN becomes 0 in up to 32 bits."""
    limits = np.iinfo(dtype)
    a = rounded(a.astype(np.float64))
    return np.where(np.isnan(a), 0, np.clip(a, limits.min, limits.max)).astype(dtype)
