"""Weight-gradient kernels that are wrong in one place of their PTX, and what the emulator says of each: see damages.py."""

from pallas_conv.kernels.wgrad.plan import Config
from tests.kernels.cases import product

from .cases import Case
from .damages import WAIT, WRONG, Damage, consumers, descriptors, every, expects, nth, number

HALO = Case(
    "weight gradient, halo, a column of taps a consumer, four steps",
    product("wgrad", 4, (64, 64), (10, 10), 3, out_dtype="float32"),
    Config((1, 8, 8), taps_per_tile=3, n_warpgroups=3, halo=True, stages=2),
    num_sms=1,
)
SHARED = Case(
    "weight gradient, dy in registers, x shared, four steps",
    product("wgrad", 4, (32, 128), (8, 10), (1, 3), out_dtype="float32"),
    Config((1, 8, 8), 32, taps_per_tile=3, dy_registers=True, stages=2, multicast="x"),
    num_sms=2,
)
BIAS = Case(
    "weight gradient, bias gradient, five steps",
    product("wgrad", 1, (16, 48), (17, 10), (1, 3), out_dtype="float32", outputs=("dw", "db")),
    Config((1, 8, 8), 32, taps_per_tile=3, dy_registers=True, stages=2),
    num_sms=1,
)

# fmt: off
DAMAGES = [
    # Operands: what wgmma reads is not what TMA wrote.
    Damage("dy in registers: drop .trans of every ldmatrix", SHARED, every(r"(ldmatrix\S+)\.trans", r"\1"), WRONG),
    Damage("dy in registers: drop .trans of one ldmatrix", SHARED, nth(r"(ldmatrix\S+)\.trans", r"\1"), WRONG),
    Damage("dy in registers: swap two registers of an ldmatrix", SHARED,
           nth(r"(ldmatrix\S+ \{)(%r\d+), (%r\d+)", r"\1\3, \2"), WRONG),
    Damage("dy in registers: swap two registers of A of a wgmma", SHARED,
           nth(r"\{(%r\d+),(%r\d+),(%r\d+),(%r\d+)\}, (%rd\d+), p", r"{\1,\3,\2,\4}, \5, p"), WRONG),
    Damage("dy in registers: x not transposed", SHARED, every(r"p, 1, 1, 1;", "p, 1, 1, 0;"),
           rf"{WRONG}|reads shared memory|a race"),
    Damage("weight gradient: neither operand transposed", HALO, every(r"p, 1, 1, 1, 1;", "p, 1, 1, 0, 0;"),
           rf"{WRONG}|nobody has written"),
    Damage("weight gradient: descriptor stride of eight rows halved", HALO, descriptors(32, 14, lambda v: v // 2), WRONG),
    Damage("weight gradient: a coordinate of the last load is another one", HALO,
           nth(r"(\], \[%rd\d+, \{)(%r\d+),(%r\d+),", r"\1\2,\2,", -1), WRONG),
    # Missing fences and waits.
    Damage("dy in registers: drop wgmma.fence", SHARED, every(r"wgmma\.fence\.sync\.aligned;"),
           "were written since the last wgmma.fence"),
    Damage("weight gradient: drop wgmma.fence", HALO, every(r"wgmma\.fence\.sync\.aligned;"),
           "were written since the last wgmma.fence"),
    Damage("dy in registers: drop every wgmma.wait_group", SHARED, every(r"wgmma\.wait_group\.sync\.aligned \d;"),
           "of a wgmma that was not waited for|a race: overwrites what a wgmma reads"),
    Damage("dy in registers: drop the wait in the loop", SHARED, nth(r"wgmma\.wait_group\.sync\.aligned 0;", n=1),
           "of a wgmma that was not waited for|still reads|a race: overwrites what a wgmma reads"),
    Damage("weight gradient: the loop waits for a group less", HALO,
           every(r"wgmma\.wait_group\.sync\.aligned ([1-9])(?=;)", number(lambda v: v + 1)),
           "a race: overwrites what a wgmma reads|still reads"),
    Damage("weight gradient: drop the wait in the loop", HALO, every(r"wgmma\.wait_group\.sync\.aligned [1-9];"),
           "a race: overwrites what a wgmma reads|still reads"),
    Damage("weight gradient: drop every wgmma.wait_group 0", HALO, every(r"wgmma\.wait_group\.sync\.aligned 0;"),
           "touches accumulators of a wgmma that was not waited for"),
    Damage("dy in registers: A written while a wgmma reads it", SHARED,
           nth(r"(mma_async\S+ \{[^}]*\}, \{)(%r\d+)(,[^;]*;[^}]*\})", r"\1\2\3 mov.b32 \2, 0;"),
           "touches registers of A of a wgmma that was not waited for"),
    Damage("weight gradient: drop the consumers' wait for a full slot", HALO, consumers(WAIT, 0),
           "wgmma reads shared memory that nobody has written|a race: reads what TMA"),
    Damage("dy in registers: drop the consumers' wait for a full slot", SHARED, consumers(WAIT, 0),
           "shared memory that nobody has written|a race: reads what TMA|still writing"),
    Damage("weight gradient: drop the producer's wait for the first slot to come back", HALO, nth(WAIT, n=2),
           "TMA overwrites shared memory that a wgmma .* still reads|a race: overwrites|more arrivals"),
    # Arrivals, releases and bytes.
    Damage("weight gradient: the loop releases a slot before its wait", HALO,
           nth(r"(?s)(wgmma\.wait_group\.sync\.aligned [1-9];)((?:(?!wait_group).)*?)"
               r"(mbarrier\.arrive\.release\.cta\.shared::cta\.b64 _, \[%r\d+\], 1;)", r"\2\3\1"),
           "a race: overwrites what a wgmma reads|still reads"),
    Damage("weight gradient: expect 2 bytes less a thread", HALO, expects(-2),
           "256 bytes more than were expected in a phase|too few bytes were expected"),
    Damage("x shared: arrive at the own block only", SHARED,
           every(r"mapa\.shared::cluster\.u32 mapped_addr, (%r\d+), %r\d+;",
                 r"mapa.shared::cluster.u32 mapped_addr, \1, 0;"),
           "more arrivals in a phase than its|deadlock:"),
    Damage("x shared: multicast to one block only", SHARED,
           nth(r"(multicast::cluster \[[^\]]+\], \[[^\]]+\], \[[^\]]+\], )%rs\d+", r"\g<1>1"), "deadlock:"),
    Damage("x shared: drop the remote arrival", SHARED,
           nth(r"@%p\d+ mbarrier\.arrive\.shared::cluster\.b64 _, \[mapped_addr\];", n=-1), "deadlock:"),
    # Results, which go from registers to global memory.
    Damage("weight gradient: a result 8 bytes off", HALO, nth(r"(st\.v2\.b32\s+\[%rd\d+)\+32\]", r"\1+40]"),
           rf"{WRONG}|stores an element again"),
    Damage("weight gradient: a result past its buffer", HALO, nth(r"(st\.v2\.b32\s+\[%rd\d+)\+32\]", r"\1+99999968]"),
           r"bytes \d+\.\.\d+ of a buffer of"),
    Damage("weight gradient: a result of other registers", HALO, nth(r"(st\.v2\.b32\s+\[%rd\d+\], \{)(%r\d+), (%r\d+)",
           r"\1\3, \2"), WRONG),
    Damage("weight gradient: a wgmma that does not add to its sums", HALO,
           nth(r"setp\.ne\.b32 p, 1, 0;", "setp.ne.b32 p, 0, 0;", 1), WRONG),
    # The bias gradient: sums over registers, lanes and steps.
    Damage("bias gradient: a register that is not added", BIAS,
           nth(r"add\.f32\s+(%r\d+), (%r\d+), %r\d+;(\s*shfl\.sync\.bfly)", r"mov.b32 \1, \2;\3"), WRONG),
    Damage("bias gradient: sum over half of the lanes", BIAS,
           nth(r"shfl\.sync\.bfly\.b32\s+(%r\d+), (%r\d+), 2, 31, -1;", r"mov.b32 \1, 0;"),
           rf"{WRONG}|stores an element again"),
    Damage("bias gradient: sum the lanes' own pixels twice", BIAS,
           nth(r"shfl\.sync\.bfly\.b32\s+(%r\d+), (%r\d+), 1, 31, -1;", r"mov.b32 \1, \2;"),
           rf"{WRONG}|stores an element again"),
    Damage("bias gradient: in other rows", BIAS, nth(r"(st\.global\.b32\s+\[%rd\d+)\+32\]", r"\1+36]"),
           rf"{WRONG}|stores an element again|bytes \d+\.\.\d+ of a buffer of"),
    Damage("bias gradient: drop a store", BIAS, nth(r"st\.global\.b32\s+\[%rd\d+\+32\], %r\d+;", ""), WRONG),
]
# fmt: on
