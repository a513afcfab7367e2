"""pallas_conv.lax against jax.lax: every function and argument, the same errors."""

import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import pallas_conv as pc
from pallas_conv import lax as ours
from tests.lax.calls import NAMES, W, X, alike, draw, served


@pytest.mark.parametrize("name", NAMES)
def test_signatures_are_those_of_lax(name):
    assert inspect.signature(getattr(ours, name)) == inspect.signature(getattr(lax, name))
    assert getattr(ours, name).__doc__ == getattr(lax, name).__doc__


# ---------------------------------------------------------------- conv_general_dilated

SIZES = {"N": 2, "C": 4, "H": 7, "W": 6, "I": 4, "O": 5, "h": 3, "w": 2}


def permuted(lhs, rhs, out):
    x = draw(*(SIZES[c] for c in lhs))
    w = draw(*(SIZES[c.lower() if c in "HW" else c] for c in rhs))
    call = lambda conv: lambda x, w: conv(x, w, (2, 1), ((1, 0), (2, 1)), dimension_numbers=(lhs, rhs, out))
    f = call(ours.conv_general_dilated)
    alike(f, call(lax.conv_general_dilated), x, w)
    assert served(f, x, w) == 1


def orders(letters):
    """All orders of them. Quick tests take the rotations, which put each letter in each place, and channels last."""
    often = {letters[i:] + letters[:i] for i in range(len(letters))} | {"NHWC", "HWIO"}
    every = map("".join, itertools.permutations(letters))
    return [pytest.param(order, marks=[pytest.mark.extended] * (order not in often)) for order in every]


@pytest.mark.parametrize("lhs", orders("NCHW"))
def test_every_order_of_the_input(lhs):
    permuted(lhs, "OIHW", "NCHW")


@pytest.mark.parametrize("rhs", orders("OIHW"))
def test_every_order_of_the_kernel(rhs):
    """Strides and padding are given in the kernel's order of H and W."""
    permuted("NHWC", rhs, "NCHW")


@pytest.mark.parametrize("out", orders("NCHW"))
def test_every_order_of_the_output(out):
    permuted("NHWC", "HWIO", out)


LAST = lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
CALLS = {  # lhs, rhs, arguments
    "nothing but padding": ((2, 4, 8, 7), (6, 4, 3, 3), ((1, 1), "SAME")),
    "lists": ((2, 4, 8, 7), (6, 4, 3, 3), ([2, 1], [(1, 0), (0, 2)], [1, 2], [2, 1])),
    "SAME_LOWER": ((2, 4, 8, 7), (6, 4, 2, 2), ((2, 2), "SAME_LOWER")),
    "VALID": ((2, 4, 8, 7), (6, 4, 3, 3), ((2, 3), "VALID", None, (2, 2))),
    "cropped": ((2, 4, 8, 7), (6, 4, 3, 3), ((1, 1), ((-1, 2), (3, -2)))),
    "dilated input": ((2, 4, 5, 4), (6, 4, 3, 3), ((1, 1), ((2, 1), (2, 2)), (2, 3))),
    "dilated input and a stride": ((2, 4, 5, 4), (6, 4, 3, 3), ((3, 2), ((2, 1), (2, 2)), (2, 3))),
    "groups": ((2, 6, 8, 7), (4, 3, 3, 3), ((1, 1), "SAME", None, None, None, 2)),
    "depthwise": ((2, 6, 8, 7), (12, 1, 3, 3), ((1, 1), "SAME", None, None, None, 6)),
    "ConvDimensionNumbers": (
        (2, 8, 7, 4), (3, 3, 4, 6), ((1, 1), "SAME", None, None, LAST)
    ),
    "1-D": ((2, 9, 4), (3, 4, 6), ((2,), "SAME", None, None, ("NHC", "HIO", "NHC"))),
    "3-D": ((2, 4, 5, 6, 4), (3, 3, 2, 4, 6), ((1, 2, 1), "SAME", None, None, ("NDHWC", "DHWIO", "NDHWC"))),
    "4-D": ((1, 2, 4, 3, 4, 3), (3, 2, 2, 2, 2, 2), ((1, 1, 1, 1), "VALID")),
    "a precision": ((2, 4, 8, 7), (6, 4, 3, 3), ((1, 1), "SAME", None, None, None, 1, 1, "highest")),
    "a pair of precisions": (
        (2, 4, 8, 7), (6, 4, 3, 3), ((1, 1), "SAME", None, None, None, 1, 1, (lax.Precision.HIGH, lax.Precision.HIGH))
    ),
    "the operands' own dtype": ((2, 4, 8, 7), (6, 4, 3, 3), ((1, 1), "SAME", None, None, None, 1, 1, None, jnp.float32)),
    "an empty batch": ((0, 4, 8, 7), (6, 4, 3, 3), ((1, 1), "SAME")),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", CALLS)
def test_calls(name, dtype):
    lhs, rhs, args = CALLS[name]
    if args[-1] is jnp.float32 and dtype != "float32":
        args = (*args[:-1], jnp.dtype(dtype))
    x, w = draw(*lhs, dtype=dtype), draw(*rhs, dtype=dtype)
    f, g = (lambda x, w, conv=conv: conv(x, w, *args) for conv in (ours.conv_general_dilated, lax.conv_general_dilated))
    alike(f, g, x, w)
    assert served(f, x, w) == 1


LAXES = {  # what our primitives do not serve
    "two precisions that differ": (X, W, {"precision": ("high", "default")}, "float32"),
    "batch groups": ((4, 4, 8, 7), (6, 4, 3, 3), {"batch_group_count": 2}, "float32"),
    "a wider result": ((2, 4, 8, 7), (6, 4, 3, 3), {"preferred_element_type": jnp.float32}, "bfloat16"),
    "no spatial axis": ((2, 4), (6, 4), {"window_strides": (), "padding": ()}, "float32"),
}


@pytest.mark.parametrize("name", LAXES)
def test_the_rest_is_laxs_own(name):
    lhs, rhs, kwargs, dtype = LAXES[name]
    x, w = draw(*lhs, dtype=dtype), draw(*rhs, dtype=dtype)
    call = lambda conv: lambda x, w: conv(x, w, **{"window_strides": (1, 1), "padding": "SAME"} | kwargs)
    alike(call(ours.conv_general_dilated), call(lax.conv_general_dilated), x, w)
    assert pc.explain(call(ours.conv_general_dilated), x, w).unconverted == 1


def test_integers_are_laxs_own():
    x, w = draw(2, 4, 8, 7, dtype="int32"), draw(6, 4, 3, 3, dtype="int32")
    np.testing.assert_array_equal(ours.conv(x, w, (1, 1), "SAME"), lax.conv(x, w, (1, 1), "SAME"))
    assert pc.explain(lambda x, w: ours.conv(x, w, (1, 1), "SAME"), x, w).unconverted == 1


def test_complex_numbers_and_numpys_arrays():
    x, w = (lax.complex(draw(*shape), draw(*shape, seed=1)) for shape in (X, W))
    alike(lambda x, w: ours.conv(x, w, (1, 1), "SAME"), lambda x, w: lax.conv(x, w, (1, 1), "SAME"), x, w)
    x, w = np.asarray(draw(2, 4, 8, 7), "float64"), np.asarray(draw(6, 4, 3, 3), "float64")
    got, want = (conv(x, w, (1, 1), "SAME") for conv in (ours.conv, lax.conv))
    assert got.dtype == want.dtype
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "padding", [np.array(((1, 1), (0, 2))), jnp.array(((1, 1), (0, 2))), zip((1, 0), (1, 2), strict=True)]
)
def test_unusual_settings_are_laxs_own(padding):
    got = ours.conv_general_dilated(draw(*X), draw(*W), (1, 1), padding)
    want = lax.conv_general_dilated(draw(*X), draw(*W), (1, 1), ((1, 1), (0, 2)))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_weak_types_stay_weak():
    x, w = jax.lax.full((1, 2, 4, 4), 1.0), jax.lax.full((2, 2, 3, 3), 1.0)
    alike(lambda x, w: ours.conv(x, w, (1, 1), "SAME"), lambda x, w: lax.conv(x, w, (1, 1), "SAME"), x, w)


TWICE = lax.ConvDimensionNumbers((0, 1, 2, 2), (0, 1, 2, 3), (0, 1, 2, 3))
WRONG = {
    "another number of channels": (X, (6, 5, 3, 3), ((1, 1), "SAME"), {}),
    "too few strides": (X, W, ((1,), "SAME"), {}),
    "an unknown padding": (X, W, ((1, 1), "SMAE"), {}),
    "a number as padding": (X, W, ((1, 1), 1), {}),
    "too few pairs": (X, W, ((1, 1), ((1, 1),)), {}),
    "a fraction in the padding": (X, W, ((1, 1), ((1.5, 1), (1, 1))), {}),
    "string padding with a dilated input": (X, W, ((1, 1), "SAME", (2, 2)), {}),
    "a stride of zero": (X, W, ((0, 1), "SAME"), {}),
    "groups that do not divide": (X, W, ((1, 1), "SAME"), {"feature_group_count": 3}),
    "no groups": (X, W, ((1, 1), "SAME"), {"feature_group_count": 0}),
    "ranks that differ": (X, (6, 4, 3), ((1, 1), "SAME"), {}),
    "dimension_numbers of another rank": (X, W, ((1, 1), "SAME"), {"dimension_numbers": ("NHC", "HIO", "NHC")}),
    "dimension_numbers without channels": (X, W, ((1, 1), "SAME"), {"dimension_numbers": ("NXHW", "OIHW", "NCHW")}),
    "an unknown precision": (X, W, ((1, 1), "SAME"), {"precision": "great"}),
    "an argument that there is not": (X, W, ((1, 1), "SAME"), {"strides": 1}),
    "no padding": (X, W, ((1, 1),), {}),
    "a stride of zero and pairs": (X, W, ((0, 1), ((1, 1), (1, 1))), {}),
    "a dilation of zero": (X, W, ((1, 1), "SAME", None, (0, 1)), {}),
    "dilations of no length": (X, W, ((1, 1), "SAME", None, 0), {}),
    "too few dilations": (X, W, ((1, 1), ((1, 1), (1, 1)), None, (1,)), {}),
    "a precision in capitals": (X, W, ((1, 1), "SAME"), {"precision": "HIGH"}),
    "axes that are there twice": (
        X, W, ((1, 1), ((1, 1), (1, 1))), {"dimension_numbers": TWICE}
    ),
    "fractions in the padding, after the same in whole numbers": (X, W, ((1, 1), ((1.0, 1.0), (1.0, 1.0))), {}),
    "no channels and no groups": ((2, 0, 8, 7), (6, 0, 3, 3), ((1, 1), "SAME"), {"feature_group_count": 0}),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_errors_are_those_of_lax(name):
    lhs, rhs, args, kwargs = WRONG[name]
    x, w = draw(*lhs), draw(*rhs)
    ours.conv_general_dilated(draw(*X), draw(*W), (1, 1), ((1, 1), (1, 1)))
    with pytest.raises(Exception) as want:  # noqa: PT011
        lax.conv_general_dilated(x, w, *args, **kwargs)
    with pytest.raises(want.type) as got:
        ours.conv_general_dilated(x, w, *args, **kwargs)
    assert str(got.value).partition("loc(")[0] == str(want.value).partition("loc(")[0]  # where it was traced


@pytest.mark.parametrize("operands", [([1.0], draw(*W)), (draw(*X), draw(*W).astype("bfloat16")), (1.0, 2.0)])
def test_operands_that_do_not_fit(operands):
    with pytest.raises(Exception) as want:  # noqa: PT011
        lax.conv(*operands, (1, 1), "SAME")
    with pytest.raises(want.type):
        ours.conv(*operands, (1, 1), "SAME")


# ---------------------------------------------------------------- the others


@pytest.mark.parametrize("name", ["conv", "conv_with_general_padding"])
def test_the_simple_ones(name):
    args = ((2, 1), "SAME") if name == "conv" else ((2, 1), ((1, 2), (0, 1)), None, (1, 2))
    f, g = (lambda x, w, module=module: getattr(module, name)(x, w, *args) for module in (ours, lax))
    alike(f, g, draw(*X), draw(*W))
    assert served(f, draw(*X), draw(*W)) == 1


TRANSPOSES = {
    "SAME": ((2, 2), "SAME", {}),
    "VALID": ((3, 2), "VALID", {}),
    "pairs": ((2, 3), ((1, 2), (2, 0)), {}),
    "pairs of the convolution": ((2, 3), ((1, 1), (0, 1)), {"use_consistent_padding": True}),
    "dilated": ((2, 2), "SAME", {"rhs_dilation": (2, 1)}),
    "the gradient's kernel": (
        (2, 2),
        "SAME",
        {"transpose_kernel": True, "dimension_numbers": ("NHWC", "HWOI", "NHWC")},
    ),
    "channels first": ((2, 2), "SAME", {"dimension_numbers": ("NCHW", "OIHW", "NCHW")}),
}


@pytest.mark.parametrize("name", TRANSPOSES)
def test_conv_transpose(name):
    strides, padding, kwargs = TRANSPOSES[name]
    first = "OIHW" in kwargs.get("dimension_numbers", ())
    x, w = (draw(2, 4, 6, 5), draw(3, 4, 3, 3)) if first else (draw(2, 6, 5, 4), draw(3, 3, 4, 4))
    f, g = (
        lambda x, w, conv=conv: conv(x, w, strides, padding, **kwargs)
        for conv in (ours.conv_transpose, lax.conv_transpose)
    )
    alike(f, g, x, w)
    assert served(f, x, w) == 1


def test_conv_general_dilated_local():
    x, w = draw(2, 4, 7, 6), draw(5, 4 * 6, 4, 5)
    f, g = (lambda x, w, m=m: m.conv_general_dilated_local(x, w, (2, 1), ((1, 1), (0, 0)), (3, 2)) for m in (ours, lax))
    alike(f, g, x, w)
    assert served(f, x, w) == 1  # to cut the patches out
