"""Large-kernel depthwise kernels that are wrong in one place of their PTX, and what the emulator says: see damages.py."""

from tests.kernels.large_depthwise.mutants import MUTANT, WEIGHTS

from .damages import ARRIVE, WAIT, WRONG, Damage, every, nth

A = r"(mma\.sync\S* \{[^}]*\}, \{)(%r\d+), (%r\d+)"
B = r"(mma\.sync\S* \{[^}]*\}, \{[^}]*\}, \{)(%r\d+), (%r\d+)"
SUMS = r"(mma\.sync\S* \{[^}]*\}, \{[^}]*\}, \{(%r\d+), %r\d+\}, )\{[^}]*\}"
UNREAD = "nobody has written|still writing|a race: reads what"

# fmt: off
DAMAGES = [
    # Matrices: what mma.sync multiplies is not what was loaded, nor what was meant to be beside it.
    Damage("large depthwise: swap two registers of A", MUTANT, nth(A, r"\1\3, \2"), WRONG),
    Damage("large depthwise: swap two registers of B", MUTANT, nth(B, r"\1\3, \2"), WRONG),
    Damage("large depthwise: an mma that does not add to its sums", MUTANT, nth(SUMS, r"\1{\2, \2, \2, \2}", 2), WRONG),
    Damage("large depthwise: odd pixels of the wrong halves of words", MUTANT,
           every(r"(shf\.l\.wrap\.b32\s+%r\d+), (%r\d+), (%r\d+), 16;", r"\1, \3, \2, 16;"), WRONG),
    Damage("large depthwise: swap two pixels that are transposed", MUTANT,
           nth(r"(st\.shared\.v2\.b16\s+\[[^\]]+\], \{)(%rs\d+), (%rs\d+)", r"\1\3, \2"), WRONG),
    Damage("large depthwise: even results in the place of odd ones", MUTANT,
           every(r"(cvt\.rn\.bf16x2\.f32\s+%r\d+), (%\w+), (%\w+);", r"\1, \3, \2;"), WRONG),
    Damage("large depthwise: swap two results that are merged", MUTANT,
           nth(r"(ld\.shared\.v2\.b16\s+\{)(%rs\d+), (%rs\d+)", r"\1\3, \2"), WRONG),
    # Missing waits, fences and arrivals.
    Damage("large depthwise: drop the wait for what TMA loads", MUTANT, nth(WAIT, n=0), UNREAD),
    Damage("large depthwise: drop the wait for a buffer to be read", MUTANT, nth(WAIT, n=1), "a race: overwrites"),
    Damage("large depthwise: drop the consumers' wait for the weights", MUTANT, nth(WAIT, n=4), UNREAD),
    Damage("large depthwise: drop the consumers' wait for transposed pixels", MUTANT, nth(WAIT, n=6), UNREAD),
    Damage("large depthwise: drop the wait for the other consumer's results", MUTANT, nth(WAIT, n=7), UNREAD),
    Damage("large depthwise: drop every fence", MUTANT, every(r"fence\.proxy\.async\S*;"),
           "without fence.proxy.async|a race"),
    Damage("large depthwise: drop the wait for a store to have read its buffer", MUTANT,
           every(r"cp\.async\.bulk\.wait_group\.read\s+\d+;"), "still reads"),
    Damage("large depthwise: drop the arrival after pixels were transposed", MUTANT, nth(ARRIVE), "deadlock:"),
    # The weight gradient.
    Damage("large depthwise dw: swap two registers of A", WEIGHTS, nth(A, r"\1\3, \2"), WRONG),
    Damage("large depthwise dw: swap two registers of B", WEIGHTS, nth(B, r"\1\3, \2"), WRONG),
    Damage("large depthwise dw: an mma that does not add to its sums", WEIGHTS, nth(SUMS, r"\1{\2, \2, \2, \2}", 2), WRONG),
    Damage("large depthwise dw: drop the wait for the cotangent to be read", WEIGHTS, nth(WAIT, n=0), "a race: overwrites"),
    Damage("large depthwise dw: drop the barrier after zeros were written", WEIGHTS, nth(r"bar\.sync \S+ 128;", "", 0),
           "a race: overwrites"),
    Damage("large depthwise dw: drop a store of zeros", WEIGHTS, nth(r"st\.shared\.v4\.b32[^;]*;"), "nobody has written"),
    Damage("large depthwise dw: drop an addition to the bias gradient", WEIGHTS,
           nth(r"add\.rn\.f32\s+(%r\d+), (%r\d+), %r\d+;", r"mov.b32 \1, \2;", 3), WRONG),
    Damage("large depthwise dw: sums stored in the place of others", WEIGHTS,
           nth(r"(st\.v2\.b32\s+\[%rd\d+)\+\d+\]", r"\1]"), f"{WRONG}|stores an element again"),
]
# fmt: on
