"""Depthwise kernels that are wrong in one place of their PTX, and what the emulator says of each: see damages.py."""

from tests.kernels.depthwise.mutants import (
    ADDS,
    BACKWARD,
    DERIVATIVE,
    DERIVATIVE_ADDS,
    MUTANT,
    PHASES,
    RESIDUAL,
    WEIGHT_ADDS,
    WEIGHTS,
)

from .damages import WAIT, WRONG, Damage, consumers, every, expects, nth

MMA = r"(mma\.sync\.aligned\.m16n8k{}\S* \{{[^}}]*\}}, \{{)(%r\d+), (%r\d+)"

# fmt: off
DAMAGES = [
    # Fragments: what mma.sync multiplies is not what ldmatrix loaded, nor what was meant to be beside it.
    Damage("depthwise: swap two registers of an ldmatrix", MUTANT,
           nth(r"(ldmatrix\S+ \{)(%r\d+), (%r\d+)", r"\1\3, \2"), WRONG),
    Damage("depthwise: swap two registers of A of an mma of two taps", MUTANT, nth(MMA.format(16), r"\1\3, \2"), WRONG),
    Damage("depthwise: swap the registers of A of an mma of one tap", MUTANT, nth(MMA.format(8), r"\1\3, \2"), WRONG),
    Damage("depthwise: swap the weights of two taps", MUTANT,
           nth(r"(mma\.sync\.aligned\.m16n8k16\S* \{[^}]*\}, \{[^}]*\}, \{)(%r\d+), (%r\d+)", r"\1\3, \2"), WRONG),
    Damage("depthwise: an mma that does not add to its sums", MUTANT,
           nth(r"(mma\.sync\.aligned\.m16n8k8\S* \{[^}]*\}, \{[^}]*\}, \{)(%r\d+)\}, \{[^}]*\}",
               r"\1\2}, {\2, \2, \2, \2}"), WRONG),
    Damage("depthwise: the pixels of another tap", MUTANT,
           nth(r"(ldmatrix\S+ \{[^}]*\}, \[%rd\d+\+)144\]", r"\g<1>288]"), WRONG),
    Damage("depthwise: a product of the other dtype", MUTANT, every(r"f32\.bf16\.bf16\.f32", "f32.f16.f16.f32"), WRONG),
    Damage("depthwise in float32: a multiply-add that does not add", ADDS,
           nth(r"(fma\.rn\.f32\s+%r\d+, (%r\d+), %r\d+, )%r\d+", r"\1\2", -1), WRONG),
    # Missing waits and fences.
    Damage("depthwise: drop the consumers' first wait for a full slot", MUTANT, consumers(WAIT, 0),
           "shared memory that nobody has written|a race: reads what TMA|still writing"),
    Damage("depthwise: drop the producer's wait for the first slot to come back", MUTANT, nth(WAIT, n=5),
           "TMA overwrites shared memory|a race: overwrites|more arrivals"),
    Damage("depthwise: drop the fence before results are stored", MUTANT, every(r"fence\.proxy\.async\S*;"),
           "without fence.proxy.async|a race"),
    Damage("depthwise: drop the wait for a store to have read its buffer", MUTANT,
           every(r"cp\.async\.bulk\.wait_group\.read\s+0;"), "still reads"),
    # Arrivals and bytes, coordinates, results.
    Damage("depthwise: expect 2 bytes less a thread", MUTANT, expects(-2),
           "256 bytes more than were expected in a phase|too few bytes were expected"),
    Damage("depthwise: drop the release of a chunk that two tiles read", MUTANT,
           nth(r"mbarrier\.arrive\.release\.cta\.shared::cta\.b64 _, \[%r\d+\], 1;", n=-1), "deadlock:"),
    Damage("depthwise: a coordinate of a load is another one", MUTANT,
           nth(r"(bulk\.tensor\.4d\.shared[^;]*\], \[%rd\d+, \{)(%r\d+),(%r\d+),", r"\1\2,\2,"), WRONG),
    Damage("depthwise: swap two registers of a stmatrix", MUTANT,
           nth(r"(stmatrix\S+ \[[^\]]+\], \{)(%r\d+), (%r\d+)", r"\1\3, \2"), WRONG),
    Damage("depthwise: phases stored in each other's places", PHASES,
           nth(r"(bulk\.tensor\.5d\.global[^;]*\{%r\d+, %r\d+, %r\d+, )(%r\d+), (%r\d+)", r"\1\3, \2", 1),
           f"{WRONG}|stores elements at .* again"),
    Damage("depthwise: drop every wait of the consumers for the residual", RESIDUAL, consumers(WAIT, 3),
           "shared memory that nobody has written|a race: reads what TMA|still writing"),
    # The weight gradient.
    Damage("depthwise dw: drop .trans of every ldmatrix", WEIGHTS, every(r"(ldmatrix\S+)\.trans", r"\1"), WRONG),
    Damage("depthwise dw: drop .trans of one ldmatrix", WEIGHTS, nth(r"(ldmatrix\S+)\.trans", r"\1"), WRONG),
    Damage("depthwise dw: swap the registers of an ldmatrix", WEIGHTS,
           nth(r"(ldmatrix\S+ \{)(%r\d+), (%r\d+)", r"\1\3, \2"), WRONG),
    Damage("depthwise dw: swap the pixels of two taps", WEIGHTS,
           nth(r"(mma\.sync\S* \{[^}]*\}, \{)(%r\d+), (%r\d+), (%r\d+), (%r\d+)", r"\1\3, \2, \5, \4", 1), WRONG),
    Damage("depthwise dw: the pixels of a tap where none is wanted", WEIGHTS,
           nth(r"(mma\.sync\S* \{[^}]*\}, \{)(%r\d+), (%r\d+), (%r\d+), (%r\d+)", r"\1\3, \2, \5, \4", 2), WRONG),
    Damage("depthwise dw: the cotangent of other pixels", WEIGHTS,
           nth(r"(mma\.sync\S* \{[^}]*\}, \{[^}]*\}, \{)(%r\d+), (%r\d+)", r"\1\3, \2", 1), WRONG),
    Damage("depthwise dw: a sum that is not carried on", WEIGHTS,
           nth(r"(mma\.sync\S* \{[^}]*\}, \{[^}]*\}, \{(%r\d+), %r\d+\}, )\{[^}]*\}", r"\1{\2, \2, \2, \2}", 1), WRONG),
    Damage("depthwise dw in float32: a multiply-add that does not add", WEIGHT_ADDS,
           nth(r"(fma\.rn\.f32\s+%r\d+, (%r\d+), %r\d+, )%r\d+", r"\1\2", -1), WRONG),
    Damage("depthwise dw: drop the consumers' first wait for a cotangent", WEIGHTS, consumers(WAIT, 2),
           "shared memory that nobody has written|a race: reads what TMA|still writing"),
    Damage("depthwise dw: a tap's sums stored in the place of another's", WEIGHTS,
           nth(r"(st\.v2\.b32\s+\[%rd\d+)\+256\]", r"\1]"), f"{WRONG}|stores an element again"),
    # The whole backward pass.
    Damage("depthwise backward: drop .trans of every ldmatrix", BACKWARD, every(r"(ldmatrix\S+)\.trans", r"\1"), WRONG),
    Damage("depthwise backward: .trans of every ldmatrix", BACKWARD,
           every(r"(ldmatrix\S+x2)\.shared", r"\1.trans.shared"), WRONG),
    Damage("depthwise backward: drop the fence before dx is stored", BACKWARD, every(r"fence\.proxy\.async\S*;"),
           "without fence.proxy.async|a race"),
    Damage("depthwise backward: drop the wait for a store to have read its buffer", BACKWARD,
           every(r"cp\.async\.bulk\.wait_group\.read\s+0;"), "still reads"),
    Damage("depthwise backward: a sum of the cotangent that is not carried on", BACKWARD,
           nth(r"(mma\.sync\S* \{[^}]*\}, \{[^}]*\}, \{(%r\d+), %r\d+\}, )\{[^}]*\}", r"\1{\2, \2, \2, \2}", -1), WRONG),
    Damage("depthwise backward in float32: drop the barrier after the cotangent was multiplied", DERIVATIVE_ADDS,
           nth(r"bar\.sync \S+ 128;", "", 2), "a race: reads what"),
    Damage("depthwise backward: the derivative of other pixels", DERIVATIVE,
           nth(r"(ldmatrix\S+ \{)(%r\d+), (%r\d+)", r"\1\3, \2", 1), WRONG),
]
# fmt: on
