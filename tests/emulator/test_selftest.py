"""The emulator against kernels whose layouts Mosaic chooses: what it assumes of descriptors, swizzles and fragments holds."""

import pytest

from tests.emulator import damages
from tests.emulator.faults import Fault
from tests.emulator.matmuls import Ampere, Hopper, hopper
from tests.emulator.timing import MODES

pytestmark = pytest.mark.aot

FROM_REGISTERS = [
    Hopper("bfloat16", a_in_registers=True),
    Hopper("float16", b_transposed=True, a_in_registers=True),
    Hopper("bfloat16", a_transposed=True, a_in_registers=True),
]
QUICK = [
    Hopper("bfloat16"),
    Hopper("float16", 64, a_transposed=True),
    Hopper("float32", 32, b_transposed=True),
    FROM_REGISTERS[-1],
    Ampere("bfloat16"),
]
EXTENDED = [case for case in [*hopper(), *FROM_REGISTERS, Ampere("float16")] if case not in QUICK]


@pytest.mark.parametrize("case", [*QUICK, *(pytest.param(c, marks=pytest.mark.extended) for c in EXTENDED)], ids=str)
def test_matmul(case):
    product = case.run()
    assert product.error < 1e-4
    assert product.ran["mma" if isinstance(case, Ampere) else "wgmma"] > 0
    assert (product.ran["ldmatrix"] > 0) == (isinstance(case, Ampere) or case.a_in_registers)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", [FROM_REGISTERS[-1], Ampere("bfloat16")], ids=str)
def test_whatever_the_timing(case, mode):
    assert case.run(timing=(mode, 1)).error < 1e-4


TWICE = lambda change: lambda text: change(change(text))
WRONG_ON_AMPERE = {
    "waits for a group less": (
        damages.nth(r"cp\.async\.wait_group\s+(\d)", lambda m: f"cp.async.wait_group {int(m[1]) + 1}"),
        "reads shared memory that an asynchronous copy is still writing",
    ),
    "the last wait dropped": (damages.nth(r"cp\.async\.wait_group\s+\d+;", n=-1), "asynchronous copy is still writing"),
    "a commit_group dropped": (damages.nth(r"cp\.async\.commit_group;", n=2), "still writing|exits with cp.async"),
    "the barrier after a wait dropped": (
        damages.nth(r"(?s)(cp\.async\.wait_group.*?)bar\.sync[^;]*;", r"\1"),
        "a race: reads what block . warp . wrote|still writing",
    ),
    "the barriers dropped before a slot is filled again": (
        TWICE(damages.nth(r"bar\.sync[^;]*;", n=6)),
        r"a race: overwrites what warps .* read",
    ),
    "a copy to 16 bytes further": (
        damages.nth(r"(cp\.async\.cg\S+ \[%\w+\+?\d*\], \[%\w+)\]", r"\1+16]"),
        "^error",
    ),
    "two registers of B swapped": (
        damages.nth(r"(mma\.sync\S+\s*\{[^}]*\},\s*\{[^}]*\},\s*\{)(%r\d+),\s*(%r\d+)\}", r"\1\3,\2}"),
        "^error",
    ),
    ".trans of an ldmatrix dropped": (damages.nth(r"(ldmatrix\S+)\.trans", r"\1"), "^error"),
}


@pytest.mark.parametrize("name", WRONG_ON_AMPERE)
def test_what_is_said_of_a_wrong_kernel_for_ampere(name):
    """cp.async, mma.sync and ldmatrix.trans, which no kernel of ours has yet."""
    change, says = WRONG_ON_AMPERE[name]
    try:
        said = f"error {Ampere('bfloat16').run(change).error}"
    except Fault as fault:
        said = str(fault)
    assert damages.matches(says, said), said
    assert not said.startswith("error") or float(said.split()[1]) > 0.1


def test_what_is_said_of_registers_of_a_that_are_written_while_a_wgmma_reads_them():
    case, operand = FROM_REGISTERS[-1], r"(mma_async\S+ \{[^}]*\}, \{)(%r\d+)(,[^;]*;[^}]*\})"
    with pytest.raises(Fault, match="touches registers of A of a wgmma that was not waited for"):
        case.run(damages.nth(operand, r"\1\2\3 mov.b32 \2, 0;"))
