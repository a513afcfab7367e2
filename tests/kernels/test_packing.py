"""Groups of few channels on one side, packed: how many into one, their weights, and the products of either family."""

import itertools
import math
import random

import jax.numpy as jnp
import numpy as np
import pytest

from pallas_conv.kernels import families, serve
from pallas_conv.kernels.dense import DENSE
from pallas_conv.kernels.dense import operands as dense_operands
from pallas_conv.kernels.dense import plan as dense
from pallas_conv.kernels.family import LEAST_CHANNELS
from pallas_conv.kernels.gpu import Gpu
from pallas_conv.kernels.packing import block_diagonal, diagonal_blocks, packed, packed_groups
from pallas_conv.kernels.wgrad import WEIGHT_GRADIENT
from pallas_conv.kernels.wgrad import operands as wgrad_operands
from pallas_conv.kernels.wgrad import plan as wgrad
from pallas_conv.spec import Product
from tests.kernels import cases
from tests.kernels.cases import Case
from tests.kernels.dense import proving as of_dense
from tests.kernels.proving import prove
from tests.kernels.wgrad import proving as of_wgrad

pytestmark = pytest.mark.usefixtures("dropped_axes")


def of_groups(role: str, groups: int, given: int, wanted: int, size=(7, 9), kernel=3, **more) -> Product:
    """A product of groups of so many channels in and out."""
    return cases.product(role, 2, (groups * given, groups * wanted), size, kernel, groups=groups, **more)


@pytest.mark.parametrize(
    ("groups", "channels", "count"),
    [
        (32, (1, 16), 16),  # enough, of whole eights
        (32, (16, 1), 16),
        (64, (8, 64), 2),
        (32, (3, 12), 8),  # four would be enough, but no whole eights
        (6, (4, 20), 6),
        (9, (4, 10), 3),  # no divisor makes whole eights
        (48, (7, 9), 8),
        (7, (1, 9), 7),  # there are no more
        (2, (3, 64), 2),
        (67, (1, 16), 67),
        (1, (3, 64), 1),  # one group is padded
        (4, (9, 12), 1),
        (32, (8, 8), 1),  # of another family
        (1, (1, 1), 1),
    ],
)
def test_how_many_groups_are_packed(groups, channels, count):
    product = of_groups("fprop", groups, *channels)
    assert packed_groups(product) == count
    assert packed(product).spec.groups * count == groups


@pytest.mark.parametrize("role", ["fprop", "dgrad", "wgrad"])
@pytest.mark.parametrize("groups", [2, 3, 7, 12, 64, 96])
def test_a_kernel_serves_whatever_groups(role, groups):
    for few, many in itertools.product((1, 3, 5, 8), (9, 16, 21)):
        for channels in ((few, many), (many, few)):
            product = of_groups(role, groups, *channels)
            assert families.serving(product) is (WEIGHT_GRADIENT if role == "wgrad" else DENSE)
            seen = packed(product)
            assert seen.spec.groups == 1 or seen.spec.groups * LEAST_CHANNELS <= min(
                seen.in_channels, seen.out_channels
            )


@pytest.mark.parametrize("role", ["fprop", "dgrad", "wgrad"])
@pytest.mark.parametrize(("groups", "few", "channels"), [(67, 1, 67), (19, 4, 76), (1009, 8, 8072)])
def test_groups_of_which_too_many_would_be_packed_are_refused(role, groups, few, channels):
    (reason,) = families.reasons(of_groups(role, groups, few, 16), (9, 0))
    assert reason.startswith(f"groups of {few} channels are packed, but of {groups} groups at least {groups}")
    assert f"would make {channels} channels on the smaller side, more than 64" in reason
    assert families.reasons(of_groups(role, groups + 1, few, 16), (9, 0)) == ()


def by_definition(w: np.ndarray, count: int) -> np.ndarray:
    """(G, K, C, *kernel) -> (G / count, count K, count C, *kernel), weight by weight."""
    groups, k, c, *kernel = w.shape
    found = np.zeros((groups // count, count * k, count * c, *kernel), w.dtype)
    for g, o, i in np.ndindex(groups, k, c):
        found[g // count, g % count * k + o, g % count * c + i] = w[g, o, i]
    return found


@pytest.mark.parametrize("count", [1, 2, 6])
def test_weights_and_their_gradients(count):
    w = np.random.default_rng(count).standard_normal((6, 5, 2, 3, 2)).astype("float32")
    w[2, 1, 0] = np.inf  # and no NaN anywhere
    blocks = block_diagonal(jnp.asarray(w), count)
    np.testing.assert_array_equal(blocks, by_definition(w, count))
    two = jnp.stack([blocks, -blocks])
    np.testing.assert_array_equal(diagonal_blocks(two, count), np.stack([w, -w]))


@pytest.mark.parametrize(("role", "family"), [("fprop", DENSE), ("dgrad", DENSE), ("wgrad", WEIGHT_GRADIENT)])
def test_sizes_count_no_zeros_and_notes_tell_of_them(role, family):
    product = of_groups(role, 32, 2, 12)
    size, alone = family.size(product), family.size(of_groups(role, 1, 2, 12))
    assert size.macs == 32 * alone.macs
    assert size.nbytes == 32 * alone.nbytes
    assert size[2:] == alone[2:]
    kernel = serve.kernel(product)
    assert kernel.notes[0].startswith("every 8 groups are multiplied as one")
    assert "7 of 8 multiply-adds are in vain" in kernel.notes[0]
    assert not any("padded" in note for note in kernel.notes)


def generated(seed: int) -> Case:
    """A random product of packed groups, and a random tile that is legal for it."""
    rng = random.Random(f"packed {seed}")
    while True:
        pick, nd = rng.choice, rng.choice((1, 2, 2, 3))
        each = lambda lo, hi, nd=nd: tuple(rng.randint(lo, hi) for _ in range(nd))
        role, dtype = pick(("fprop", "dgrad", "wgrad")), pick(("bfloat16", "float16", "float32"))
        more = {"outputs": pick((("dw",), ("dw", "db")))} if role == "wgrad" else {}
        if role == "fprop":
            more = {"bias": pick((True, False)), "residual": pick((True, False)), "activation": pick((None, "silu"))}
        channels = rng.randint(1, 8), rng.randint(9, 14)
        p = of_groups(
            role, rng.randint(2, 12), *channels[:: pick((1, -1))], each(1, (40, 10, 5)[nd - 1]), each(1, 3),
            padding=tuple((rng.randint(-1, 2), rng.randint(-1, 2)) for _ in range(nd)), dilation=pick((1, each(1, 2))),
            models=pick((None, None, 2)), dtype=dtype, **{pick(("stride", "input_dilation")): pick((1, each(1, 2)))}, **more,
        )  # fmt: skip
        if (family := families.serving(p)) is None or math.prod(p.operand_shapes[0]) > 20_000:
            continue
        case = Case(f"generated packed {seed}", p, (of_wgrad if role == "wgrad" else of_dense).some_config(rng, p), 3)
        if role != "wgrad" and case.config:
            return case
        if role == "wgrad" and not family.illegal(family.problem(p), case.config, Gpu(3)) and of_wgrad.in_seconds(case):
            return case


@pytest.mark.parametrize("seed", [pytest.param(n, marks=[pytest.mark.extended] * (n > 2)) for n in range(60)])
def test_generated(seed):
    case = generated(seed)
    assert packed_groups(case.product) > 1
    (prove if case.product.role == "wgrad" else of_dense.prove)(case)


# ------------------------------------------------------------ broken ones

WRONG = pytest.raises(AssertionError, match="right=False")
FORWARD = Case(
    "a packed mutant", of_groups("fprop", 8, 2, 9, (3, 5), 1), dense.Config((1, 8, 8), 48, tile_k=16, stages=2), 2
)
WEIGHTS = Case(
    "a packed mutant of weights", of_groups("wgrad", 8, 2, 9, (3, 5), 1), wgrad.Config((1, 8, 8), stages=2), 2
)


def test_unbroken():
    of_dense.prove(FORWARD)
    prove(WEIGHTS)


def test_weights_of_other_groups_are_wrong(monkeypatch):
    """Blocks beside the diagonal, which is zero."""
    turned = lambda w, count: jnp.roll(block_diagonal(w, count), w.shape[2], axis=2)
    monkeypatch.setattr(dense_operands, "block_diagonal", turned)
    with WRONG:
        of_dense.prove(FORWARD)


def test_gradients_of_zeros_are_wrong(monkeypatch):
    beside = lambda dw, count: diagonal_blocks(jnp.roll(dw, dw.shape[3] // count, axis=3), count)
    monkeypatch.setattr(wgrad_operands, "diagonal_blocks", beside)
    with WRONG:
        prove(WEIGHTS)
