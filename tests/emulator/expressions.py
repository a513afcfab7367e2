"""Instructions that only touch a lane's registers, as Python expressions over arrays of 32 lanes.

Registers hold unsigned integers of their width, predicates hold bool; an array is never changed in place. `R` are the
registers of a warp, `S` its special registers. Titles are those of "Instruction Set" in the PTX ISA; a form that no
pattern here matches is unsupported, or has effects and is executed elsewhere.
"""

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from . import arithmetic, memory_map
from .arithmetic import FLOATING, SIGNED, UNSIGNED
from .faults import Unsupported
from .opcodes import Opcodes
from .ptx import Imm, Inst, Operand, Reg, Special, Sym

COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "lo": "<", "ls": "<=", "hi": ">"}
COMPARISONS |= {"hs": ">="}
TYPES: dict[str, dict[int, type]] = {"b": UNSIGNED, "u": UNSIGNED, "s": SIGNED, "f": FLOATING}
LOGIC = {"and": "&", "or": "|", "xor": "^"}
ROUNDINGS = {"rni": "np.rint", "rzi": "np.trunc", "rmi": "np.floor", "rpi": "np.ceil"}
WHOLE_WARP = 0xFFFFFFFF  # as a membermask
SPECIAL_REGISTERS = {f"{name}.{axis}" for name in ("tid", "ntid", "ctaid", "nctaid") for axis in "xyz"}
SPECIAL_REGISTERS |= {"laneid", "cluster_ctaid.x", "cluster_ctarank"}


class Expressions:
    """Turns instructions into statements such as `R[3]=R[1]+R[2]`; `names` is what they refer to."""

    def __init__(self, symbols: dict[str, int]):
        self.symbols = symbols
        self.names: dict[str, Any] = {"np": np, **vars(arithmetic)}

    def statement(self, inst: Inst) -> str | None:
        """None if the instruction is none of these."""
        if (found := MEANINGS.find(inst.op)) is None:
            return None
        meaning, match = found
        made = meaning(self, inst, match)
        pairs = made if isinstance(made, list) else [(inst.args[0], made)]
        return ";".join(f"R[{register.slot}]={expression}" for register, expression in pairs)

    def constant(self, value, dtype) -> str:
        name = f"K{len(self.names)}"
        self.names[name] = np.full(32, value, dtype)
        return name

    def value(self, arg: Operand, kind: str) -> str:
        """An argument as an array of a PTX type: u32, s32, f32, b16, pred, ..."""
        if kind == "pred":
            return self.constant(bool(arg.bits), bool) if isinstance(arg, Imm) else f"R[{_register(arg).slot}]"
        bits = int(kind[1:])
        dtype = TYPES[kind[0]][bits]
        if isinstance(arg, Imm):
            return self.constant(np.array([arg.bits & ((1 << bits) - 1)], UNSIGNED[bits]).view(dtype)[0], dtype)
        if isinstance(arg, Sym):
            return self.constant(self.symbols[arg.name], dtype)
        if isinstance(arg, Special):
            if arg.name not in SPECIAL_REGISTERS:
                raise Unsupported(f"%{arg.name}")
            return f"S['{arg.name}']"
        # Operand Size Exceeding Instruction-Type Size: the low bits of a wider register are read.
        register = _register(arg)
        text = f"R[{register.slot}]" if register.width == bits else f"R[{register.slot}].astype(np.uint{bits})"
        return text if dtype is UNSIGNED[bits] else f"{text}.view(np.{dtype.__name__})"

    def values(self, inst: Inst, *kinds: str) -> list[str]:
        """The arguments after the destination."""
        return [self.value(arg, kind) for arg, kind in zip(inst.args[1:], kinds, strict=True)]


def _register(arg: Operand) -> Reg:
    if not isinstance(arg, Reg):
        raise Unsupported(f"{arg} where a register is expected")
    return arg


Meaning = Callable[[Expressions, Inst, re.Match], str | list[tuple[Reg, str]]]
MEANINGS: Opcodes[Meaning] = Opcodes()


def raw(text: str, bits: int) -> str:
    return f"({text}).view(np.uint{bits})"


# Integer Arithmetic Instructions.


@MEANINGS(r"(add|sub)\.[us](16|32|64)")
def _(e: Expressions, inst: Inst, m: re.Match):
    a, b = e.values(inst, *[f"u{m[2]}"] * 2)
    return f"{a}{'+' if m[1] == 'add' else '-'}{b}"


@MEANINGS(r"(mul|mad)\.lo\.[us](16|32|64)")
def _(e: Expressions, inst: Inst, m: re.Match):
    a, b, *c = e.values(inst, *[f"u{m[2]}"] * (2 + (m[1] == "mad")))
    return "+".join([f"{a}*{b}", *c])


@MEANINGS(r"mul\.hi\.([us](16|32|64))")
def _(e: Expressions, inst: Inst, m: re.Match):
    a, b = e.values(inst, m[1], m[1])
    return raw(f"high_half({a},{b})", int(m[2]))


@MEANINGS(r"(mul|mad)\.wide\.(([us])(16|32))")
def _(e: Expressions, inst: Inst, m: re.Match):
    bits = 2 * int(m[4])
    wide = f"np.{'int' if m[3] == 's' else 'uint'}{bits}"
    a, b, *c = e.values(inst, m[2], m[2], *[f"u{bits}"] * (m[1] == "mad"))
    return "+".join([raw(f"{a}.astype({wide})*{b}.astype({wide})", bits), *c])


@MEANINGS(r"(min|max)\.([us](16|32|64))")
def _(e: Expressions, inst: Inst, m: re.Match):
    a, b = e.values(inst, m[2], m[2])
    return raw(f"np.{m[1]}imum({a},{b})", int(m[3]))


@MEANINGS(r"(min|max)\.relu\.s32")
def _(e: Expressions, inst: Inst, m: re.Match):
    a, b = e.values(inst, "s32", "s32")
    return raw(f"np.maximum(np.{m[1]}imum({a},{b}),np.int32(0))", 32)


@MEANINGS(r"(div|rem)\.([us](16|32|64))")
def _(e: Expressions, inst: Inst, m: re.Match):
    a, b = e.values(inst, m[2], m[2])
    return raw(f"{'divide' if m[1] == 'div' else 'remainder'}({a},{b})", int(m[3]))


@MEANINGS(r"(neg|abs)\.(s(16|32|64))")
def _(e: Expressions, inst: Inst, m: re.Match):
    (a,) = e.values(inst, m[2])
    return raw(f"{'-' if m[1] == 'neg' else 'np.abs'}({a})", int(m[3]))


@MEANINGS(r"bfe\.([us](32|64))")
def _(e: Expressions, inst: Inst, m: re.Match):
    a, position, length = e.values(inst, m[1], "u32", "u32")
    return f"extract({a},{position},{length})"


# Floating-Point Instructions. add, sub and mul round to nearest even by default.


@MEANINGS(r"(add|sub|mul)(\.rn)?\.f32")
def _(e: Expressions, inst: Inst, m: re.Match):
    a, b = e.values(inst, "f32", "f32")
    return raw(f"{a}{ {'add': '+', 'sub': '-', 'mul': '*'}[m[1]] }{b}", 32)


@MEANINGS(r"fma\.(rn|rm)\.f32")
def _(e: Expressions, inst: Inst, m: re.Match):
    a, b, c = e.values(inst, "f32", "f32", "f32")
    return raw(f"{'fused' if m[1] == 'rn' else 'fused_down'}({a},{b},{c})", 32)


@MEANINGS(r"(min|max)(\.NaN)?\.f32")
def _(e: Expressions, inst: Inst, m: re.Match):
    a, b = e.values(inst, "f32", "f32")
    return raw(f"np.{m[1]}imum({a},{b})" if m[2] else f"np.f{m[1]}({a},{b})", 32)


@MEANINGS(r"(neg|abs)\.f32")
def _(e: Expressions, inst: Inst, m: re.Match):
    (a,) = e.values(inst, "b32")
    return f"{a}^{e.constant(1 << 31, np.uint32)}" if m[1] == "neg" else f"{a}&{e.constant(0x7FFFFFFF, np.uint32)}"


@MEANINGS(r"copysign\.f32")
def _(e: Expressions, inst: Inst, m: re.Match):
    """The sign of the first, the magnitude of the second."""
    sign, magnitude = e.values(inst, "b32", "b32")
    return f"({sign}&{e.constant(1 << 31, np.uint32)})|({magnitude}&{e.constant(0x7FFFFFFF, np.uint32)})"


# Of approximations NumPy's results are nearer than the hardware's.
APPROXIMATIONS = {
    "ex2": "np.exp2({})",
    "lg2": "np.log2({})",
    "rcp": "np.float32(1)/{}",
    "sqrt": "np.sqrt({})",
    "rsqrt": "np.float32(1)/np.sqrt({})",
    "tanh": "np.tanh({})",
}


@MEANINGS(rf"({'|'.join(APPROXIMATIONS)})\.(?:approx|rn)(\.ftz)?\.f32")
def _(e: Expressions, inst: Inst, m: re.Match):
    (a,) = e.values(inst, "f32")
    made = APPROXIMATIONS[m[1]].format(f"flush({a})" if m[2] else a)
    return raw(f"flush({made})" if m[2] else made, 32)


# Half Precision Floating Point Instructions.

OPERATORS = {"add": "np.add", "sub": "np.subtract", "mul": "np.multiply"}


@MEANINGS(r"(add|sub|mul)(?:\.rn)?\.(b?f16)(x2)?")
def _(e: Expressions, inst: Inst, m: re.Match):
    if not m[3]:
        a, b = (f"number({bits},'{m[2]}')" for bits in e.values(inst, "u16", "u16"))
        return f"combined({OPERATORS[m[1]]},{a},{b},'{m[2]}')"
    packed = e.values(inst, "u32", "u32")
    low, high = ([f"half({a},{i},'{m[2]}')" for a in packed] for i in (0, 1))
    low, high = (f"combined({OPERATORS[m[1]]},{a},{b},'{m[2]}').astype(np.uint32)" for a, b in (low, high))
    return f"({high}<<np.uint32(16))|{low}"


# Comparison and Selection Instructions.


@MEANINGS(r"setp\.([a-z]+)(?:\.(and|or|xor))?\.(([busf])(16|32|64))")
def _(e: Expressions, inst: Inst, m: re.Match):
    if isinstance(inst.args[0], tuple):
        raise inst.unsupported()
    a, b, *combined = e.values(inst, m[3], m[3], *["pred"] * (m[2] is not None))
    test = f"({_comparison(inst, m[1], m[4], a, b)})"
    return f"{test}{LOGIC[m[2]]}{combined[0]}" if combined else test


@MEANINGS(r"setp\.([a-z]+)\.(b?f16)x2")
def _(e: Expressions, inst: Inst, m: re.Match):
    """Two packed numbers are compared one by one, the lower ones for the first predicate."""
    found, (a, b) = inst.args[0], e.values(inst, "u32", "u32")
    if not isinstance(found, tuple):
        raise inst.unsupported()
    each = [[f"half({packed},{i},'{m[2]}')" for packed in (a, b)] for i in (0, 1)]
    return [
        (_register(predicate), f"({_comparison(inst, m[1], 'f', *pair)})")
        for predicate, pair in zip(found, each, strict=True)
    ]


def _comparison(inst: Inst, how: str, letter: str, a: str, b: str) -> str:
    if letter != "f":
        if how not in COMPARISONS:
            raise inst.unsupported()
        return f"{a}{COMPARISONS[how]}{b}"
    unordered = f"np.isnan({a})|np.isnan({b})"
    if how in ("nan", "num"):
        return unordered if how == "nan" else f"~({unordered})"
    if how == "ne":  # as all comparisons but those that end in u, false of NaNs
        return f"({a}!={b})&~({unordered})"
    if how in COMPARISONS and how[0] != "h" and how not in ("lo", "ls"):
        return f"{a}{COMPARISONS[how]}{b}"
    if how[-1] != "u" or how[:-1] not in COMPARISONS:
        raise inst.unsupported()
    return f"({a}{COMPARISONS[how[:-1]]}{b})|{unordered}"


@MEANINGS(r"selp\.[busf](16|32|64)")
def _(e: Expressions, inst: Inst, m: re.Match):
    a, b, chosen = e.values(inst, f"b{m[1]}", f"b{m[1]}", "pred")
    return f"np.where({chosen},{a},{b})"


# Logic and Shift Instructions.


@MEANINGS(r"(and|or|xor)\.(pred|b16|b32|b64)")
def _(e: Expressions, inst: Inst, m: re.Match):
    a, b = e.values(inst, m[2], m[2])
    return f"{a}{LOGIC[m[1]]}{b}"


@MEANINGS(r"not\.(pred|b16|b32|b64)")
def _(e: Expressions, inst: Inst, m: re.Match):
    return f"~{e.values(inst, m[1])[0]}"


@MEANINGS(r"(shl|shr)\.([bus](16|32|64))")
def _(e: Expressions, inst: Inst, m: re.Match):
    a, amount = e.values(inst, m[2], "u32")
    return raw(f"{'shift_left' if m[1] == 'shl' else 'shift_right'}({a},{amount})", int(m[3]))


@MEANINGS(r"shf\.([lr])\.(wrap|clamp)\.b32")
def _(e: Expressions, inst: Inst, m: re.Match):
    low, high, amount = e.values(inst, "u32", "u32", "u32")
    amount = f"({amount}&np.uint32(31))" if m[2] == "wrap" else f"np.minimum({amount},np.uint32(32))"
    return f"funnel_shift({low},{high},{amount},{m[1] == 'l'})"


# Data Movement and Conversion Instructions.


@MEANINGS(r"mov\.(pred|[busf](16|32|64))")
def _(e: Expressions, inst: Inst, m: re.Match):
    target, source = inst.args
    if m[1] == "pred":
        return e.value(source, "pred")
    bits = int(m[2])
    if isinstance(target, tuple):  # unpacks, the low part first
        whole, part = e.value(source, f"b{bits}"), bits // len(target)
        shifted = lambda i: f"({whole}>>np.uint{bits}({part * i})).astype(np.uint{part})"
        return [(register, shifted(i)) for i, register in enumerate(target) if register is not None]
    if isinstance(source, tuple):  # packs
        part = bits // len(source)
        widened = lambda i: f"({e.value(source[i], f'b{part}')}.astype(np.uint{bits})<<np.uint{bits}({part * i}))"
        return "|".join(map(widened, range(len(source))))
    return e.value(source, f"b{bits}")


@MEANINGS(r"cvta(\.to\.global|\.global|\.param)\.u64")
def _(e: Expressions, inst: Inst, m: re.Match):
    """Generic addresses of global memory and of parameters are their addresses there (`memory_map`)."""
    return e.value(inst.args[1], "b64")


@MEANINGS(r"cvt\.rn\.(bf16|f16)(x2)?\.f32")
def _(e: Expressions, inst: Inst, m: re.Match):
    each = [f"{m[1]}_bits({a})" for a in e.values(inst, *["f32"] * (2 if m[2] else 1))]
    return f"({each[0]}<<np.uint32(16))|{each[1]}" if m[2] else f"{each[0]}.astype(np.uint16)"


@MEANINGS(r"cvt\.rn\.(bf16|f16)\.([us](16|32))")
def _(e: Expressions, inst: Inst, m: re.Match):
    return f"rounded({e.values(inst, m[2])[0]},'{m[1]}')"


@MEANINGS(r"cvt\.f32\.(bf16|f16)")
def _(e: Expressions, inst: Inst, m: re.Match):
    if m[1] == "bf16":
        return f"{e.values(inst, 'b16')[0]}.astype(np.uint32)<<np.uint32(16)"
    return raw(f"{e.values(inst, 'f16')[0]}.astype(np.float32)", 32)


@MEANINGS(r"cvt\.(sat|rni|rzi|rmi|rpi)\.f32\.f32")
def _(e: Expressions, inst: Inst, m: re.Match):
    function = "saturate" if m[1] == "sat" else ROUNDINGS[m[1]]
    return raw(f"{function}({e.values(inst, 'f32')[0]})", 32)


@MEANINGS(r"cvt\.(rni|rzi|rmi|rpi)\.([us])(16|32)\.f32")
def _(e: Expressions, inst: Inst, m: re.Match):
    dtype = f"np.{'int' if m[2] == 's' else 'uint'}{m[3]}"
    return raw(f"to_integer({e.values(inst, 'f32')[0]},{dtype},{ROUNDINGS[m[1]]})", int(m[3]))


@MEANINGS(r"cvt\.rn\.f32\.([us](16|32|64))")
def _(e: Expressions, inst: Inst, m: re.Match):
    return raw(f"{e.values(inst, m[1])[0]}.astype(np.float32)", 32)


@MEANINGS(r"cvt\.([us])(8|16|32|64)\.([us](8|16|32|64))")
def _(e: Expressions, inst: Inst, m: re.Match):
    """Cut or extended to the type, then extended to the register, which may be wider."""
    register, kind = inst.args[0].width, "int" if m[1] == "s" else "uint"
    cut = f"{e.values(inst, m[3])[0]}.astype(np.{kind}{m[2]})"
    return raw(f"{cut}.astype(np.{kind}{register})", register)


@MEANINGS(r"shfl\.sync\.(idx|bfly)\.b32")
def _(e: Expressions, inst: Inst, m: re.Match):
    """A shuffle of a warp whose lanes all take part, in one segment of 32."""
    _, a, b, clamp, members = inst.args
    if not all(isinstance(x, Imm) for x in (clamp, members)) or isinstance(inst.args[0], tuple):
        raise inst.unsupported()
    if clamp.bits != 31 or members.bits & WHOLE_WARP != WHOLE_WARP:
        raise inst.unsupported()
    lane = e.value(b, "u32") if m[1] == "idx" else f"LANES^{e.value(b, 'u32')}"
    return f"{e.value(a, 'b32')}[({lane})&np.uint32(31)]"


@MEANINGS(r"elect\.sync")
def _(e: Expressions, inst: Inst, m: re.Match):
    """An election: any one lane may win, and here the first does, `S['elected']`."""
    index, chosen = inst.args[0]
    if not isinstance(inst.args[1], Imm) or inst.args[1].bits & WHOLE_WARP != WHOLE_WARP:
        raise inst.unsupported()
    return [(chosen, "S['elected']"), *([(index, "S['leader']")] if index is not None else [])]


@MEANINGS(r"mapa\.shared::cluster\.u32")
def _(e: Expressions, inst: Inst, m: re.Match):
    """The address, in the shared memory of a block of the cluster, of what has this address in the own block's."""
    address, rank = e.values(inst, "u32", "u32")
    own, shift = memory_map.SHARED_BYTES - 1, memory_map.SHARED_BITS
    return f"{address}&np.uint32({own})|(({rank}+np.uint32(1))<<np.uint32({shift}))"
