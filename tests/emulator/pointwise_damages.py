"""Pointwise kernels that are wrong in one place of their PTX, and what the emulator says of each: see damages.py."""

from tests.kernels.pointwise.mutants import KEEPING, MUTANT, PREPARED

from .damages import WRONG, Damage, every, nth, number

# fmt: off
DAMAGES = [
    # Operands: what wgmma reads is not what TMA wrote.
    Damage("pointwise: the weights not transposed", MUTANT, every(r"p, 1, 1, 0, 1;", "p, 1, 1, 0, 0;"),
           rf"{WRONG}|nobody has written"),
    Damage("pointwise: neither operand of dw transposed", MUTANT, every(r"p, 1, 1, 1, 1;", "p, 1, 1, 0, 0;"),
           rf"{WRONG}|nobody has written|a race: reads what TMA"),
    Damage("pointwise: a wgmma of dw that does not add to its sums", MUTANT,
           nth(r"setp\.ne\.b32 p, 1, 0;", "setp.ne.b32 p, 0, 0;", 5), WRONG),
    # Missing fences and waits.
    Damage("pointwise: drop wgmma.fence", KEEPING, every(r"wgmma\.fence\.sync\.aligned;"),
           "were written since the last wgmma.fence"),
    Damage("pointwise: drop every wgmma.wait_group 0", MUTANT, every(r"wgmma\.wait_group\.sync\.aligned 0;"),
           "touches accumulators of a wgmma that was not waited for|a race: overwrites what a wgmma reads"),
    Damage("pointwise: the loop waits for a group less", KEEPING,
           every(r"wgmma\.wait_group\.sync\.aligned ([1-9])(?=;)", number(lambda v: v + 1)),
           "a race: overwrites what a wgmma reads|still reads"),
    Damage("pointwise: drop fence.proxy.async", PREPARED, every(r"fence\.proxy\.async[^;]*;"),
           "without fence.proxy.async|a race: reads"),
    # The cotangent that is prepared.
    Damage("pointwise: swap two rows of the cotangent", PREPARED,
           nth(r"(ldmatrix\S+ \{)(%r\d+), (%r\d+)", r"\1\3, \2"), WRONG),
    Damage("pointwise: swap two rows of what is made of it", PREPARED,
           nth(r"(stmatrix\S+ \[%rd\d+\], \{)(%r\d+), (%r\d+)", r"\1\3, \2"), WRONG),
    Damage("pointwise: a row that the bias gradient leaves out", PREPARED,
           nth(r"add\.rn\.f32\s+(%r\d+), (%r\d+), %r\d+;(?=\s*add\.rn\.f32)", r"mov.b32 \1, \2;"), WRONG),
]
# fmt: on
