"""Kernels that are wrong in one place of their PTX, and what the emulator says of each: a fault, or a wrong result.

The code of a kernel's producer comes first, then that of its consumers, which starts with handing over every slot.
"""

import dataclasses
import re
from collections.abc import Callable

from pallas_conv.kernels.dense.plan import Config
from tests.kernels.cases import product

from .cases import Case, named, run
from .faults import Fault

WRONG = "wrong: error"  # of a result that `judge` does not find right

type Change = Callable[[str], str]
type Replacement = str | Callable[[re.Match], str]

# What no timing shows is not found; races show under every one.
TIMINGS = [
    ("early", 0),
    ("late", 0),
    *(("random", seed) for seed in range(6)),
    *(("late", seed) for seed in range(1, 4)),
]

PLAIN = named("3x3 ragged edges, more steps than twice the stages")
RESIDENT = named("resident weights, halo, two blocks on an SM, two channel steps, more tiles than blocks")
RESIDUAL = named("residual two chunks ahead, ragged edges, more tiles than blocks")
CLUSTER = Case(
    "cluster of two, two steps of channels, residual",
    product("fprop", 2, (128, 128), (14, 14), 3, 1, 1, bias=True, residual=True, activation="silu"),
    Config((1, 8, 8), 128, stages=3, cluster=2, epi_stages=2),
)


@dataclasses.dataclass(frozen=True)
class Damage:
    """says: a pattern of what the emulator says, whatever the timing."""

    name: str
    case: Case
    change: Change
    says: str

    def __str__(self) -> str:
        return self.name.replace(" ", "_")


def said(case: Case, change: Change | None = None, key: object = None) -> str:
    """The emulator's complaint about a damaged case, under the first timing that shows one. Empty if the case is right."""
    for timing in TIMINGS:
        try:
            outcome = run(case, damage=change, timing=timing, key=key)
        except Fault as fault:
            return str(fault)
        if not outcome.right:
            return f"{WRONG} {outcome.worst.error:.2g} over {outcome.worst.bound:.2g}"
    return ""


def matches(says: str, heard: str) -> bool:
    return re.search(says, heard) is not None


def found(pattern: str, text: str) -> re.Match:
    if (match := re.search(pattern, text)) is None:
        raise LookupError(pattern)
    return match


def nth(pattern: str, replacement: Replacement = "", n: int = 0) -> Change:
    """Changes the n-th match; a negative n counts from the last."""

    def change(text: str) -> str:
        match = list(re.finditer(pattern, text))[n]
        new = match.expand(replacement) if isinstance(replacement, str) else replacement(match)
        return text[: match.start()] + new + text[match.end() :]

    return change


def every(pattern: str, replacement: Replacement = "") -> Change:
    def change(text: str) -> str:
        changed, count = re.subn(pattern, replacement, text)
        if not count:
            raise LookupError(pattern)
        return changed

    return change


WAIT = r"\{\s*\.reg \.pred\s+P1;\s*LAB_WAIT:\s*mbarrier\.try_wait[^}]*\}"
ARRIVE = r"mbarrier\.arrive\.release\.cta\.shared::cta\.b64 _, \[%r\d+\], 1;"


def consumers(pattern: str, n: int) -> Change:
    """Drops the n-th match in the consumers' code."""

    def change(text: str) -> str:
        start = found(r"mbarrier\.arrive\.(release\.cta|shared::cluster)", text).start()
        return text[:start] + nth(pattern, n=n)(text[start:])

    return change


def expects(more: int) -> Change:
    """Every thread of the first arrive.expect_tx expects so many bytes more; its register is a constant."""

    def change(text: str) -> str:
        m = found(r"mbarrier\.arrive\.expect_tx\.\S+ (?:%rd\d+|_), \[[^\]]*\], (%r\d+)(?=;)", text)
        constant = found(rf"mov\.b32\s+{m[1]}, (\d+);", text)
        return text[: m.start(1)] + str(int(constant[1]) + more) + text[m.end(1) :]

    return change


def descriptors(at: int, bits: int, f: Callable[[int], int]) -> Change:
    """A field of every matrix descriptor, in the constants that hold it: f of what it was."""

    def changed(m: re.Match) -> str:
        value, mask = int(m[0]), (1 << bits) - 1
        if not (value >> 62 and (value >> 32) & 0x3FFF):  # no swizzle, no stride: no descriptor
            return m[0]
        return str((value & ~(mask << at)) | ((f((value >> at) & mask) & mask) << at))

    return every(r"\b\d{19}\b", changed)


def number(change: Callable[[int], int]) -> Replacement:
    """A match ends in its one group, a number, which changes."""
    return lambda m: m[0].removesuffix(m[1]) + str(change(int(m[1])))


# fmt: off
DAMAGES = [
    # Swizzle and strides: what wgmma reads is not what TMA wrote.
    Damage("descriptor swizzle 128 B to 64 B", PLAIN, descriptors(62, 2, lambda v: 2),
           "its pattern of eight rows of 64 bytes is not aligned"),
    Damage("descriptor stride of eight rows halved", PLAIN, descriptors(32, 14, lambda v: v // 2), WRONG),
    Damage("halo: descriptor stride doubled", RESIDENT, descriptors(32, 14, lambda v: 2 * v),
           "a race: reads what TMA through mbarrier .* wrote"),
    Damage("descriptor advanced by 48 bytes, not 32", PLAIN, nth(r"\b\d{19}\b", lambda m: str(int(m[0]) + 1), 2), WRONG),
    # Byte counts and arrivals of mbarriers.
    Damage("expect 2 bytes more a thread", PLAIN, expects(+2), "deadlock:(?s:.*) 0 of 384 arrivals and 256 bytes missing"),
    Damage("expect 2 bytes less a thread", PLAIN, expects(-2),
           "256 bytes more than were expected in a phase|too few bytes were expected"),
    Damage("full mbarriers of one arrival less", PLAIN,
           nth(r"mov\.b32\s+%r\d+, (256|384)(?=;)", number(lambda v: v - 1)), "more arrivals in a phase than its 383"),
    Damage("a consumer arrives twice for one slot", PLAIN, nth(ARRIVE, lambda m: m[0].replace(", 1;", ", 2;"), -1),
           "deadlock:|more arrivals in a phase"),
    # Missing fences.
    Damage("drop a fence.proxy.async", PLAIN, nth(r"fence\.proxy\.async\.shared::cta;"),
           r"TMA reads shared memory that warps \[4, 5, 6, 7\] wrote, without fence.proxy.async"),
    Damage("drop wgmma.fence", PLAIN, every(r"wgmma\.fence\.sync\.aligned;"),
           "accumulators were written since the last wgmma.fence"),
    Damage("drop the fence of the mbarriers' initialisation", CLUSTER, every(r"fence\.mbarrier_init\.release\.cluster;"),
           "a race: mbarrier .* of block 0 may not be initialised yet"),
    # Missing waits.
    Damage("drop the wgmma.wait_group in the loop", PLAIN, every(r"wgmma\.wait_group\.sync\.aligned [1-9];"),
           "TMA overwrites shared memory that a wgmma .* still reads|a race: overwrites what a wgmma reads"),
    Damage("the loop's wgmma.wait_group waits for one group less", PLAIN,
           every(r"wgmma\.wait_group\.sync\.aligned ([1-9])(?=;)", number(lambda v: v + 1)),
           "a race: overwrites what a wgmma reads|still reads"),
    Damage("drop every wgmma.wait_group 0", PLAIN, every(r"wgmma\.wait_group\.sync\.aligned 0;"),
           "touches accumulators of a wgmma that was not waited for"),
    Damage("drop the producer's wait for an empty slot", PLAIN, nth(WAIT),
           "TMA overwrites shared memory that a wgmma .* still reads|a race: overwrites"),
    Damage("drop the consumers' wait for a full slot", PLAIN, consumers(WAIT, 0),
           "wgmma reads shared memory that nobody has written|a race: reads what TMA"),
    Damage("drop the wait for resident weights", RESIDENT, consumers(WAIT, 0),
           "a race: reads what TMA through mbarrier .* wrote"),
    Damage("drop a wait for a residual", RESIDUAL, consumers(WAIT, -1), "a race: reads what TMA through mbarrier .* wrote"),
    Damage("drop the second cp.async.bulk.wait_group.read", PLAIN,
           nth(r"cp\.async\.bulk\.wait_group\.read\s+\d;", n=1),
           "`stmatrix.*writes shared memory that a TMA store .* still reads"),
    Damage("residual: drop a wait_group.read", RESIDUAL, nth(r"cp\.async\.bulk\.wait_group\.read\s+\d;", n=2),
           "TMA overwrites shared memory that a wgmma or a TMA store not waited for still reads"),
    Damage("drop the last cp.async.bulk.wait_group", PLAIN, nth(r"cp\.async\.bulk\.wait_group\s+0;"),
           "`ret`: exits with TMA stores whose reads were not waited for"),
    Damage("drop a cp.async.bulk.commit_group", PLAIN, nth(r"cp\.async\.bulk\.commit_group;"),
           "writes shared memory that a TMA store .* still reads|exits with TMA stores"),
    Damage("drop the bar.sync before a TMA store", PLAIN, nth(r"bar\.sync %r\d+, 128;", n=1),
           "a race: reads what block 0 warp 5 wrote|without fence.proxy.async"),
    Damage("drop the bar.sync after the second wait for a staging buffer", PLAIN, nth(r"bar\.sync %r\d+, 128;", n=2),
           r"a race: overwrites what warps \[4\] read|still reads"),
    Damage("drop the cluster's barrier at the start", CLUSTER,
           every(r"barrier\.cluster\.(arrive\.relaxed|wait)\.aligned;"),
           "a race: mbarrier .* may not be initialised yet|no mbarrier was initialised"),
    # Early releases, and releases of the wrong block.
    Damage("the loop releases a slot before its wgmma.wait_group", PLAIN,
           nth(rf"(?s)(wgmma\.wait_group\.sync\.aligned 1;)((?:(?!wait_group).)*?)({ARRIVE})", r"\2\3\1"),
           "a race: overwrites what a wgmma reads"),
    Damage("drop the remote arrival", CLUSTER,
           nth(r"@%p\d+ mbarrier\.arrive\.shared::cluster\.b64 _, \[mapped_addr\];", n=-1), "deadlock:"),
    Damage("arrive at the own block only", CLUSTER,
           every(r"mapa\.shared::cluster\.u32 mapped_addr, (%r\d+), %r\d+;",
           r"mapa.shared::cluster.u32 mapped_addr, \1, 0;"),
           "more arrivals in a phase than its|deadlock:"),
    Damage("multicast to one block only", CLUSTER,
           nth(r"(multicast::cluster \[[^\]]+\], \[[^\]]+\], \[[^\]]+\], )%rs\d+", r"\g<1>1"), "deadlock:"),
    # Coordinates and addresses.
    Damage("a coordinate of the first load is another one", PLAIN, nth(r"\{(%r\d+),(%r\d+),", r"{\1,\1,"), WRONG),
    Damage("a store 128 bytes off", PLAIN, nth(r"(\.bulk_group \[[^\]]*\], \[%r\d+)\]", r"\1+128]"),
           r"shared memory 0x\w+\.\.0x\w+ outside"),
    Damage("a load to a multiple of 64", PLAIN, nth(r"(complete_tx::bytes \[%r\d+)\]", r"\1+64]"),
           r"TMA copies to or from 0x\w+, no multiple of 128"),
    # Registers and flags of instructions.
    Damage("swap two registers of a stmatrix", PLAIN, nth(r"(stmatrix\S+ \[[^\]]+\], \{)(%r\d+), (%r\d+)", r"\1\3, \2"),
           WRONG),
    Damage("a wgmma that does not add to its accumulators", PLAIN, nth(r"setp\.ne\.b32 p, 1, 0;", "setp.ne.b32 p, 0, 0;", 1),
           WRONG),
    Damage("a wgmma that subtracts", PLAIN, nth(r"p, 1, 1, 0, 0;", "p, -1, 1, 0, 0;", 1), WRONG),
]
# fmt: on
