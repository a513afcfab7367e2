"""The division of products into blocks of taps, by definition: which products are divided, and the reasons against others."""

import dataclasses
import itertools

import pytest

from pallas_conv.kernels import cost, families, geometry, serve
from pallas_conv.kernels.chips import chips
from pallas_conv.kernels.depthwise import DEPTHWISE
from pallas_conv.kernels.gpu import ANY_HOPPER
from pallas_conv.kernels.tap_blocks import TAP_BLOCKS
from pallas_conv.kernels.tap_blocks.blocks import as_forward, blocks, divided
from tests.kernels import cases
from tests.kernels.tap_blocks.proving import generated, grouped

SEEDS = pytest.mark.parametrize("seed", range(40))


def taps_of(block):
    return list(itertools.product(*(range(some.start, some.stop) for some in block.taps)))


@SEEDS
def test_every_tap_is_in_one_block_if_it_meets_the_input(seed):
    product = generated(seed).product
    found = [taps for block in blocks(product) for taps in taps_of(block)]
    assert len(found) == len(set(found))
    assert sum(cases.useful(block.product) for block in blocks(product)) == cases.useful(product)


@SEEDS
def test_blocks_have_the_shapes_of_the_whole(seed):
    product = generated(seed).product
    whole = as_forward(product) if product.role == "dgrad" else product
    for block in blocks(product):
        assert block.product.spec.in_spatial == whole.spec.in_spatial
        assert block.product.spec.out_spatial == whole.spec.out_spatial
        assert block.product.spec.kernel_spatial == tuple(some.stop - some.start for some in block.taps)
        assert DEPTHWISE.reasons(block.product) == ()


@SEEDS
def test_each_block_adds_to_those_before_and_the_last_one_has_the_rest(seed):
    product = generated(seed).product
    first, *others = (block.product for block in blocks(product))
    if product.role == "wgrad":
        assert first.outputs == product.outputs
        assert all(other.outputs == ("dw",) for other in others)
        return
    assert first.residual == product.residual
    assert all(other.residual for other in others)
    *before, last = (first, *others)
    assert all(part.epilogue in ("linear", "residual") for part in before)
    assert all(part.out_dtype == "float32" for part in (*before, last))
    assert (last.bias, last.activation) == (product.bias, product.activation)
    assert last.outputs == (("y",) if product.role == "dgrad" else product.outputs)


def test_an_input_gradient_as_a_forward_product_reads_the_same_pixels():
    product = grouped("dgrad", 16, (9, 17), (5, 6), (2, 3), ((3, 1), (0, 4)), dilation=(2, 1))
    plain = lambda dims: [dataclasses.replace(d, order=()) for d in dims]
    assert plain(geometry.dims(as_forward(product))) == plain(geometry.dims(product))
    assert as_forward(product).result_shapes == product.result_shapes


@pytest.mark.parametrize(
    ("kernel", "most", "sides"),
    [
        ((31, 31), 128, [(4, 31)] * 7 + [(3, 31)]),
        ((7, 7, 7), 128, [(2, 7, 7)] * 3 + [(1, 7, 7)]),
        ((3, 12, 12), 128, [(1, 6, 12)] * 6),
        ((1, 33), 16, [(1, 11)] * 3),
        ((64,), 48, [(32,)] * 2),
    ],
    ids=str,
)
def test_blocks_are_alike_in_size(kernel, most, sides):
    product = grouped("wgrad", 16, (70,) * len(kernel), kernel, 1, 40)
    assert [block.product.spec.kernel_spatial for block in divided(product, most)] == sides


@pytest.mark.parametrize(
    "changes",
    [
        {"group": 1},
        {"group": 1, "stride": 2, "dtype": "bfloat16"},
        {"group": 1, "dilation": 2, "padding": 12, "dtype": "float16"},
        {"group": 1, "dtype": "bfloat16", "residual": True},
        {"group": 1, "dtype": "bfloat16", "size": (9, 19, 19), "kernel": (5, 6, 6)},
        {"kernel": 5},
        {"group": 1, "size": (200,), "kernel": 129, "dtype": "bfloat16", "padding": 64},
        {"role": "dgrad", "group": 1},
        {"role": "wgrad", "group": 1},
        {"role": "wgrad", "group": 8, "kernel": 13, "dtype": "bfloat16", "stride": 2},
    ],
    ids=str,
)
def test_served(changes):
    given = {"role": "fprop", "size": (19, 19), "kernel": 12, "padding": 6} | changes
    role, size, kernel = (given.pop(name) for name in ("role", "size", "kernel"))
    product = grouped(role, 64, size, kernel, **given)
    assert families.serving(product) is TAP_BLOCKS
    kernel = serve.kernel(product)
    assert kernel.notes[0].startswith(f"{len(blocks(product))} launches, of at most ")
    assert TAP_BLOCKS.illegal(TAP_BLOCKS.problem(product), kernel.config, ANY_HOPPER) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dtype": "float64"}, "operands must be bfloat16"),
        ({"activation": "mish"}, "the activation 'mish' is not fused"),
        ({"size": (3, 40), "padding": 0}, "y is empty"),
        ({"role": "wgrad", "activation": "relu"}, "the derivative of relu is not fused"),
        ({"role": "bwd"}, "at most 128, not 144"),
        ({"out_dtype": "float64"}, "the result must be float32 like the operands"),
        ({"dtype": "bfloat16", "out_dtype": "float16"}, "the result must be bfloat16 like the operands"),
        ({"role": "dgrad", "bias": True}, "only a forward product has a fused epilogue"),
        ({"kernel": (3, 0)}, "w is empty"),
        ({"kernel": (66, 64), "size": (70, 70)}, "33 blocks of taps, of which each needs a launch, are more than 32"),
        ({"kernel": 31, "dilation": 100, "size": (3100, 3100)}, "in blocks of at most 32 taps: no tile fits"),
    ],
    ids=str,
)
def test_reasons(changes, words):
    given = {"role": "fprop", "size": (19, 40), "kernel": 12, "padding": 6, "group": 1} | changes
    role, size, kernel = (given.pop(name) for name in ("role", "size", "kernel"))
    found = families.reasons(grouped(role, 64, size, kernel, **given), (9, 0))
    assert any(words in reason for reason in found), found


def test_the_work_of_all_launches_is_theirs_together_and_takes_about_as_long():
    product = grouped("fprop", 128, (56, 56), 13, 1, 6, group=1, batch=64)
    problems, config = TAP_BLOCKS.problem(product), serve.choose(product)
    h100 = chips()[0]
    each = [cost.clocks(DEPTHWISE.work(problem, config, ANY_HOPPER), h100) for problem in problems]
    whole = TAP_BLOCKS.work(problems, config, ANY_HOPPER)
    assert len(each) > 1
    assert max(each) < 0.9 * sum(each) < cost.clocks(whole, h100) <= 1.02 * sum(each)
    together = sum(cost.executed(DEPTHWISE.work(p, config, ANY_HOPPER)) for p in problems)
    assert cost.executed(whole) == pytest.approx(together)
