"""Packed groups: which products are served, how many groups may be one, their weights, and the names of things."""

import itertools
import json

import jax.numpy as jnp
import numpy as np
import pytest

from pallas_conv.kernels import choice, cost, families, serve
from pallas_conv.kernels.chips import chips
from pallas_conv.kernels.dense import DENSE
from pallas_conv.kernels.gpu import ANY_HOPPER
from pallas_conv.kernels.packed_groups import PACKED_GROUPS
from pallas_conv.kernels.packed_groups.packing import block_diagonal, diagonal_blocks
from pallas_conv.kernels.packed_groups.plan import Config, counts, packed
from pallas_conv.kernels.packed_groups.search import makes_channels_of_taps
from pallas_conv.kernels.wgrad import WEIGHT_GRADIENT
from tests.kernels.packed_groups.proving import generated, of_groups

ROLES = pytest.mark.parametrize("role", ["fprop", "dgrad", "wgrad"])


@ROLES
@pytest.mark.parametrize("groups", [2, 3, 12, 67, 96])
def test_groups_of_few_channels_on_one_side_are_served_whatever_their_number(role, groups):
    for few, many in itertools.product((1, 3, 8), (9, 21)):
        for channels in ((few, many), (many, few)):
            product = of_groups(role, groups, channels)
            assert families.serving(product) is PACKED_GROUPS
            assert counts(product)[0] == 1
            assert len(PACKED_GROUPS.problem(product).packings) == len(counts(product))


@pytest.mark.parametrize(
    ("groups", "channels", "found"),
    [
        (32, (1, 16), (1, 2, 4, 8, 16, 32)),
        (32, (16, 8), (1, 2, 4, 8)),
        (96, (7, 64), (1, 2, 3, 4, 6, 8)),
        (67, (8, 16), (1,)),  # a prime number: all or none, and all would be too many
        (61, (1, 16), (1, 61)),
    ],
)
def test_how_many_groups_may_be_one(groups, channels, found):
    assert counts(of_groups("fprop", groups, channels)) == found


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"role": "bwd"}, "there is no kernel for the product 'bwd'"),
        ({"dtype": "float64"}, "operands must be bfloat16"),
        ({"dtype": "float32", "precision": "highest"}, "TF32"),
        ({"size": (9, 9, 9, 9)}, "1 to 3 spatial dimensions"),
        ({"kernel": 65, "size": (70, 70)}, "64 a side"),
        ({"activation": "mish"}, "'mish'"),
        ({"role": "wgrad", "activation": "relu"}, "without the derivative"),
        ({"role": "wgrad", "stride": 2, "input_dilation": 3}, "several phases"),
        ({"channels": (0, 9)}, "is empty"),
        ({"size": (2, 9)}, "is empty"),
        ({"groups": 2**20, "channels": (3, 16), "size": (40, 40)}, "elements"),
        ({"channels": (8, 8)}, "at most 8 channels on one side and more on the other, not 4 of 8 in and 8 out"),
        ({"channels": (9, 9)}, "not 4 of 9 in and 9 out"),
        ({"groups": 1, "channels": (3, 64)}, "there must be groups"),
    ],
    ids=str,
)
def test_each_reason(changes, words):
    given = {"role": "fprop", "groups": 4, "channels": (3, 12)} | changes
    role, groups, channels = (given.pop(name) for name in ("role", "groups", "channels"))
    found = PACKED_GROUPS.reasons(of_groups(role, groups, channels, **given))
    assert any(words in reason for reason in found), found
    assert not any("a group must have" in reason for reason in found)


@ROLES
def test_the_way_to_pack_is_the_fastest_by_the_model(role):
    chip = chips()[0]
    for groups, channels, kernel in ((64, (1, 16), 3), (32, (4, 16), 3), (96, (7, 64), 7), (48, (3, 12), 3)):
        product = of_groups(role, groups, channels, (28, 28), kernel, 1, kernel // 2)
        problem, chosen = PACKED_GROUPS.problem(product), serve.choose(product)
        mine = cost.clocks(PACKED_GROUPS.work(problem, chosen, ANY_HOPPER), chip)
        for count, packing in problem.packings:
            tile = choice.best(problem.family, packing, ANY_HOPPER)
            other = cost.clocks(problem.family.work(packing, tile, ANY_HOPPER), chip)
            assert mine <= 1.02 * other, (channels, chosen, count, tile)


def test_all_candidates_pack_in_one_way():
    ways = set()
    for kernel, channels in ((3, (1, 16)), (7, (7, 64))):
        problem = PACKED_GROUPS.problem(of_groups("dgrad", 96, channels, (28, 28), kernel, 1, kernel // 2))
        found = {(c.count, makes_channels_of_taps(c.tile)) for c in PACKED_GROUPS.candidates(problem, ANY_HOPPER)}
        assert len(found) == 1
        ways |= found
    assert {count > 1 for count, _ in ways} == {by_taps for _, by_taps in ways} == {True, False}


def by_definition(w: np.ndarray, groups: int, count: int) -> np.ndarray:
    """(O, C / groups, *kernel) -> (O, count C / groups, *kernel), weight by weight."""
    channels, of_each, *kernel = w.shape
    found = np.zeros((channels, count * of_each, *kernel), w.dtype)
    for o, i in np.ndindex(channels, of_each):
        found[o, o // (channels // groups) % count * of_each + i] = w[o, i]
    return found


@pytest.mark.parametrize("count", [1, 2, 6])
def test_weights_and_their_gradients(count):
    product = of_groups("wgrad", 6, (2, 15), (7, 9, 4), (3, 2, 1))
    w = np.random.default_rng(count).standard_normal(product.result_shapes[0]).astype("float32")
    w[2, 1, 0] = np.inf  # and no NaN anywhere
    blocks = block_diagonal(jnp.asarray(w), product, count)
    np.testing.assert_array_equal(blocks, by_definition(w, 6, count))
    np.testing.assert_array_equal(diagonal_blocks(blocks, product, count), w)
    two = jnp.stack([w, -w])  # models
    both = block_diagonal(two, product, count)
    np.testing.assert_array_equal(both, jnp.stack([blocks, -blocks]))
    np.testing.assert_array_equal(diagonal_blocks(both, product, count), two)


@ROLES
def test_sizes_count_no_zeros(role):
    size, alone = PACKED_GROUPS.size(of_groups(role, 32, (2, 12))), PACKED_GROUPS.size(of_groups(role, 2, (2, 12)))
    assert size.macs == 16 * alone.macs
    assert size.nbytes == 16 * alone.nbytes
    assert size[2:] == alone[2:]


def test_names():
    multiplier = {"groups": 64, "channels": (1, 16)}
    for role, changes, series in (
        ("fprop", multiplier, "fprop_2d_bf16_s1_by_64"),
        ("dgrad", {"groups": 96, "channels": (7, 64)}, "dgrad_2d_bf16_s1_grouped_by_8"),
        # At most two of 94 groups are one: the next divisor is 47.
        ("dgrad", {"groups": 94, "channels": (7, 64)}, "dgrad_2d_bf16_s1_grouped_by_2"),
        ("wgrad", multiplier | {"stride": 2, "models": 2}, "2d_bf16_s2_models_by_64"),
    ):
        kernel = serve.kernel(of_groups(role, **changes))
        assert kernel.series == series
        assert kernel.name == f"pallas_conv_packed_groups_{series}_linear"


def test_what_a_record_is_filed_under():
    product, chosen = of_groups("fprop", 16, (2, 12), bias=True), serve.choose(of_groups("fprop", 16, (2, 12)))
    how = Config(8, chosen.family, chosen.tile)
    path = PACKED_GROUPS.code_path(product, how)
    assert path == DENSE.code_path(packed(product, how.count), how.tile) + " packed"
    assert PACKED_GROUPS.epilogue(product, how) == "bf16 bias"
    alone = Config(1, how.family, how.tile)
    assert PACKED_GROUPS.code_path(product, alone) == DENSE.code_path(product, how.tile)


@pytest.mark.parametrize(
    ("role", "words"),
    [
        (
            "fprop",
            "8 groups are computed as one, with weights in blocks on a diagonal: at least 7 of 8 multiply-adds are with",
        ),
        (
            "wgrad",
            "8 groups are computed as one: at least 7 of 8 multiply-adds are of gradients between different groups",
        ),
    ],
)
def test_notes(role, words):
    product = of_groups(role, 16, (2, 12))
    chosen = serve.choose(product)
    as_many = lambda count: PACKED_GROUPS.notes(product, Config(count, chosen.family, chosen.tile))
    assert as_many(8)[0].startswith(words)
    assert not any("padded" in note for note in as_many(8))
    assert any("padded from 4 to 8 channels" in note for note in as_many(2))
    assert not any("as one" in note for note in as_many(1))


@pytest.mark.parametrize("seed", range(20))
def test_configurations_survive_json(seed):
    config = generated(seed).config
    assert Config.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"family": "depthwise"}, "config.family must be a family that is launched, not 'depthwise'"),
        ({"count": 1.5}, "config.count must be int"),
        ({"tile": {}}, "config.tile must have the fields of Config"),
        ({"more": 1}, "unknown"),
    ],
)
def test_json_that_is_none(changes, words):
    data = serve.choose(of_groups("fprop", 16, (2, 12))).to_json() | changes
    with pytest.raises(ValueError, match=words):
        Config.from_json(data)


def test_illegal_configurations():
    product = of_groups("fprop", 12, (2, 12))
    problem, chosen = PACKED_GROUPS.problem(product), serve.choose(product)
    illegal = lambda config: PACKED_GROUPS.illegal(problem, config, ANY_HOPPER)
    assert illegal(chosen) is None
    assert "config.count=5 must be one of [1, 2, 3, 4, 6, 12]" in illegal(Config(5, chosen.family, chosen.tile))
    gradient = serve.choose(of_groups("wgrad", 12, (2, 12)))
    assert gradient.family == WEIGHT_GRADIENT.name
    assert "must be 'dense', whose kernel is launched" in illegal(gradient)


def test_an_illegal_configuration_is_refused_when_it_runs():
    product = of_groups("wgrad", 12, (2, 12), (9, 9), 5)
    chosen = serve.choose(product)
    kernel = serve.kernel(product, config=Config(5, chosen.family, chosen.tile))
    operands = [jnp.zeros(shape, "bfloat16") for shape in product.operand_shapes]
    with pytest.raises(ValueError, match=r"config\.count=5 must be one of"):
        kernel.run(*operands)


def test_what_only_packing_makes_small_enough_is_served():
    """One by one, groups of one channel are padded to eight."""
    product = of_groups("fprop", 2**13, (1, 9), (128, 128), 1, 8)
    assert counts(product)[0] > 1
    assert PACKED_GROUPS.reasons(product) == ()
