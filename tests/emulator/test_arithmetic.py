"""Register instructions on random lanes, against the definitions of the PTX ISA in Python's unbounded integers."""

import operator
from fractions import Fraction

import numpy as np
import pytest

from tests.emulator import ptx
from tests.emulator.arithmetic import UNSIGNED
from tests.emulator.expressions import Expressions

EDGES = [0, 1, 2, 31, 32, 33, 63, 64, 65, 127, 128, 255, 256]


def executed(op: str, bits: tuple[int, ...], *arguments: list[int]) -> list[int]:
    """op d, a, ...: registers of these widths, d first, on 32 lanes."""
    declared = " ".join(f".reg .b{width} %v{i};" for i, width in enumerate(bits))
    names = ", ".join(f"%v{i}" for i in range(len(bits)))
    program = ptx.parse(f".target sm_90a\n.entry f()\n{{ {declared} {op} {names};\n}}")
    (inst,) = program.insts
    expressions = Expressions({})
    statement = expressions.statement(inst)
    assert statement is not None
    registers: list = [None] * len(bits)
    for i, (values, width) in enumerate(zip(arguments, bits[1:], strict=True)):
        registers[inst.args[1 + i].slot] = np.array([v & ((1 << width) - 1) for v in values], UNSIGNED[width])
    with np.errstate(all="ignore"):
        exec(statement, expressions.names, {"R": registers, "S": {}})
    return registers[inst.args[0].slot].tolist()


def lanes(rng: np.random.Generator, bits: int) -> list[int]:
    """Random integers, with the edges of the type among them."""
    values = [int(v) for v in rng.integers(0, 1 << bits, 25, dtype=np.uint64 if bits == 64 else np.int64)]
    return [0, 1, (1 << bits) - 1, 1 << (bits - 1), (1 << (bits - 1)) - 1, 2, 3, *values]


def signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) & 1 else value


def extracted(a: int, position: int, length: int, bits: int, is_signed: bool) -> int:
    """The loop of the PTX ISA, "Integer Arithmetic Instructions: bfe"."""
    position, length = position & 255, length & 255
    bit = a >> min(position + length - 1, bits - 1) & 1 if is_signed and length else 0
    each = (a >> position + i & 1 if i < length and position + i < bits else bit for i in range(bits))
    return sum(b << i for i, b in enumerate(each))


@pytest.mark.parametrize("kind", ["u32", "s32", "u64", "s64"])
def test_bfe(kind):
    bits, rng = int(kind[1:]), np.random.default_rng(0)
    for _ in range(20):
        a = lanes(rng, bits)
        position, length = rng.choice(EDGES, (2, 32)).tolist()
        got = executed(f"bfe.{kind}", (bits, bits, 32, 32), a, position, length)
        assert got == [extracted(x, p, n, bits, kind[0] == "s") for x, p, n in zip(a, position, length, strict=True)]


@pytest.mark.parametrize("kind", ["u16", "s16", "u32", "s32", "u64", "s64"])
def test_integers(kind):
    bits, rng = int(kind[1:]), np.random.default_rng(1)
    a, b = lanes(rng, bits), lanes(rng, bits)[::-1]
    read = (lambda v: signed(v, bits)) if kind[0] == "s" else (lambda v: v)
    pairs = [(read(x), read(y)) for x, y in zip(a, b, strict=True)]
    cut = lambda values: [v & ((1 << bits) - 1) for v in values]
    towards_zero = lambda x, y: abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1) if y else -1
    expected = {
        f"add.{kind}": [x + y for x, y in pairs],
        f"sub.{kind}": [x - y for x, y in pairs],
        f"mul.lo.{kind}": [x * y for x, y in pairs],
        f"mul.hi.{kind}": [x * y >> bits for x, y in pairs],
        f"min.{kind}": [min(pair) for pair in pairs],
        f"max.{kind}": [max(pair) for pair in pairs],
        f"div.{kind}": [towards_zero(*pair) for pair in pairs],
        f"rem.{kind}": [x - y * towards_zero(x, y) for x, y in pairs],
    }
    if kind == "s32":
        expected |= {f"{f.__name__}.relu.s32": [max(0, f(pair)) for pair in pairs] for f in (min, max)}
    for op, want in expected.items():
        assert executed(op, (bits,) * 3, a, b) == cut(want), op


@pytest.mark.parametrize("kind", ["u16", "s16", "u32", "s32", "u64", "s64"])
def test_shifts_beyond_the_width(kind):
    bits, rng = int(kind[1:]), np.random.default_rng(2)
    a, amounts = lanes(rng, bits), rng.choice(EDGES, 32).tolist()
    left = [(x << n) & ((1 << bits) - 1) for x, n in zip(a, amounts, strict=True)]
    assert executed(f"shl.b{bits}", (bits, bits, 32), a, amounts) == left
    read = (lambda v: signed(v, bits)) if kind[0] == "s" else (lambda v: v)
    right = [(read(x) >> n) & ((1 << bits) - 1) for x, n in zip(a, amounts, strict=True)]
    assert executed(f"shr.{kind}", (bits, bits, 32), a, amounts) == right


@pytest.mark.parametrize("mode", ["wrap", "clamp"])
def test_funnel_shifts(mode):
    rng, word = np.random.default_rng(4), (1 << 32) - 1
    low, high, amounts = lanes(rng, 32), lanes(rng, 32)[::-1], rng.choice(EDGES, 32).tolist()
    by = [n & 31 if mode == "wrap" else min(n, 32) for n in amounts]
    both = [(above << 32 | below, n) for below, above, n in zip(low, high, by, strict=True)]
    assert executed(f"shf.l.{mode}.b32", (32,) * 4, low, high, amounts) == [x << n >> 32 & word for x, n in both]
    assert executed(f"shf.r.{mode}.b32", (32,) * 4, low, high, amounts) == [x >> n & word for x, n in both]


@pytest.mark.parametrize(
    ("to", "source", "width"), [("s8", "s32", 16), ("s16", "s8", 16), ("u16", "u32", 32), ("s64", "s32", 64)]
)
def test_integers_are_cut_then_extended(to, source, width):
    bits, rng = int(source[1:]), np.random.default_rng(3)
    a = lanes(rng, bits)
    cut = [(signed(x, bits) if source[0] == "s" else x) & ((1 << int(to[1:])) - 1) for x in a]
    extended = [(signed(x, int(to[1:])) if to[0] == "s" else x) & ((1 << width) - 1) for x in cut]
    assert executed(f"cvt.{to}.{source}", (width, max(16, bits)), a) == extended


def test_nan_is_unordered():
    """setp.ltu is true of a NaN, setp.lt and setp.ne are not."""
    nan, one = 0x7FC00000, 0x3F800000
    for how, want in {"lt": False, "ltu": True, "ne": False, "neu": True, "nan": True, "num": False}.items():
        assert executed(f"setp.{how}.f32", (8, 32, 32), [nan] * 32, [one] * 32) == [want] * 32


FORMATS = {"bf16": (7, 127), "f16": (10, 15)}  # bits of the fraction, bias of the exponent


def exact(bits: int, kind: str) -> Fraction:
    """The value of a finite number of 16 bits."""
    fraction_bits, bias = FORMATS[kind]
    exponent, units = divmod(bits & 0x7FFF, 1 << fraction_bits)
    units += (exponent > 0) << fraction_bits
    return (-1) ** (bits >> 15) * units * Fraction(2) ** (max(exponent, 1) - bias - fraction_bits)


def nearest(value: Fraction | int, kind: str) -> int:
    """The bits of the number of 16 bits that is nearest, of two the even one; beyond the largest, of infinity."""
    fraction_bits, bias = FORMATS[kind]
    size, exponent = abs(Fraction(value)), 1 - bias
    while size >= Fraction(2) ** (exponent + 1):
        exponent += 1
    units = round(size / Fraction(2) ** (exponent - fraction_bits))  # Python rounds halves to the even one
    infinity = 2 * bias + 1 << fraction_bits
    return (value < 0) << 15 | min((exponent + bias - 1 << fraction_bits) + units, infinity)


@pytest.mark.parametrize("source", ["u32", "s32", "u16", "s16"])
@pytest.mark.parametrize("kind", ["bf16", "f16"])
def test_integers_are_rounded_once(kind, source):
    bits, rng, read = int(source[1:]), np.random.default_rng(6), lambda v: v
    if source[0] == "s":
        read = lambda v: signed(v, bits)
    for _ in range(20):
        a = [v & ((1 << bits) - 1) for v in (*lanes(rng, bits)[:16], *rng.integers(0, 1 << 16, 16).tolist())]
        assert executed(f"cvt.rn.{kind}.{source}", (16, bits), a) == [nearest(read(v), kind) for v in a]


@pytest.mark.parametrize("kind", ["bf16", "f16"])
@pytest.mark.parametrize("op", [operator.add, operator.sub, operator.mul], ids=lambda op: op.__name__)
def test_numbers_of_16_bits(op, kind):
    """Every sign and size: subnormal numbers, results beyond the largest, and sums that all but cancel."""
    largest, rng, subnormal = {"bf16": 0x7F7F, "f16": 0x7BFF}[kind], np.random.default_rng(7), 1 << FORMATS[kind][0]
    a, b = rng.integers(0, largest + 1, (2, 640)) | rng.integers(0, 2, (2, 640)) << 15
    a[::8] &= subnormal - 1
    b[::2] = np.minimum((a[::2] & 0x7FFF) + rng.integers(0, 4, 320), largest) | (~a[::2] & 0x8000)
    a[:2], b[:2] = largest, (largest, largest | 0x8000)
    want = [nearest(op(exact(x, kind), exact(y, kind)), kind) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    assert any(v & 0x7FFF > largest for v in want)
    assert any(0 < v & 0x7FFF < subnormal for v in want)

    unsigned_zeros = lambda values: [v if v & 0x7FFF else 0 for v in values]  # Fraction has one zero
    for i in range(0, 640, 64):
        low, high = slice(i, i + 32), slice(i + 32, i + 64)
        single = [
            v for s in (low, high) for v in executed(f"{op.__name__}.{kind}", (16,) * 3, a[s].tolist(), b[s].tolist())
        ]
        x, y = ((v[low] | v[high] << 16).tolist() for v in (a, b))
        packed = executed(f"{op.__name__}.rn.{kind}x2", (32,) * 3, x, y)
        assert unsigned_zeros(single) == unsigned_zeros(want[i : i + 64])
        assert [v & 0xFFFF for v in packed] + [v >> 16 for v in packed] == single


@pytest.mark.parametrize(("kind", "one"), [("bf16", 0x3F80), ("f16", 0x3C00)])
def test_comparisons_of_packed_numbers(kind, one):
    """setp.gt of (1, 0), (0, 1), (-1, NaN) and zeros, the first being the lower half."""
    program = ptx.parse(
        f".target sm_90a\n.entry f()\n{{ .reg .pred %p<2>; .reg .b32 %r<2>; setp.gt.{kind}x2 %p0|%p1, %r0, %r1;\n}}"
    )
    (inst,) = program.insts
    expressions = Expressions({})
    statement = expressions.statement(inst)
    low, high = inst.args[0]
    registers: list = [None] * 4
    packed = [one, one << 16, (one | 0x8000) | 0x7FFF << 16, 0] * 8
    registers[inst.args[1].slot], registers[inst.args[2].slot] = np.array(packed, np.uint32), np.zeros(32, np.uint32)
    exec(statement, expressions.names, {"R": registers, "S": {}})
    assert registers[low.slot].tolist() == [True, False, False, False] * 8
    assert registers[high.slot].tolist() == [False, True, False, False] * 8
