"""Bad calls: one table. The type of the error, and that it names the argument, what was given, and the way out."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_conv as pc

KEY = jax.random.key(0)
X, W, B = jnp.ones((4, 8, 8)), jnp.ones((6, 4, 3, 3)), jnp.ones(6)
COMPLEX = jnp.complex64


class Bad(NamedTuple):
    """call(nn): of a layer with nn = equinox.nn or pallas_conv, of a function with nn = pallas_conv.

    stock: whether equinox raises deliberately, too: then the type is its type.
    """

    call: Callable[[Any], Any]
    error: type[Exception]
    says: tuple[str, ...]
    stock: bool = False


def layer(
    error: type[Exception], *says: str, name: str = "Conv2d", x: Any = X, stock: bool = False, **kwargs: Any
) -> Bad:
    arguments = {"in_channels": 4, "out_channels": 6, "kernel_size": 3, "key": KEY} | kwargs
    return Bad(lambda nn: getattr(nn, name)(**arguments)(x), error, says, stock)


def transposed(error: type[Exception], *says: str, **kwargs: Any) -> Bad:
    return layer(error, *says, name="ConvTranspose2d", **kwargs)


def conv(
    error: type[Exception], *says: str, x: Any = X, w: Any = W, b: Any = None, f: str = "conv", **kwargs: Any
) -> Bad:
    return Bad(lambda nn: getattr(nn, f)(x, w, b, **kwargs), error, says)


def conv_transpose(error: type[Exception], *says: str, **kwargs: Any) -> Bad:
    return conv(error, *says, f="conv_transpose", **kwargs)


def other(call: Callable[[], Any], error: type[Exception], *says: str) -> Bad:
    return Bad(lambda nn: call(), error, says)


def ensemble(nn: Any) -> Any:
    return eqx.filter_vmap(lambda key: nn.Conv2d(4, 6, 3, key=key))(jax.random.split(KEY, 3))


def replaced(nn: Any, **leaf: Any) -> Any:
    (name, value) = next(iter(leaf.items()))
    return eqx.tree_at(lambda m: getattr(m, name), nn.Conv2d(4, 6, 3, key=KEY), value)


TABLE: dict[str, Bad] = {
    # construction of layers
    "channels, groups": layer(ValueError, "in_channels", "4", "groups", "3", "divisible", groups=3, stock=True),
    "output channels, groups": layer(ValueError, "out_channels", "6", "groups", "4", "divisible", groups=4),
    "transposed channels, groups": transposed(ValueError, "in_channels", "4", "groups", "3", "divisible", groups=3),
    "no groups": layer(ValueError, "groups", "at least 1", "0", groups=0),
    "several groups": layer(ValueError, "groups", "an int", "(2,)", groups=(2,)),
    "no input channels": layer(ValueError, "in_channels", "at least 1", "0", in_channels=0),
    "channels of float": layer(ValueError, "out_channels", "an int", "6.0", out_channels=6.0),
    "kernel 0": layer(ValueError, "kernel_size", "at least 1", "(3, 0)", kernel_size=(3, 0)),
    "kernel of another rank": layer(ValueError, "kernel_size", "2", "(3, 3, 3)", kernel_size=(3, 3, 3), stock=True),
    "stride 0": layer(ValueError, "stride", "at least 1", "0", stride=0),
    "stride of another rank": layer(ValueError, "stride", "2", "(1,)", stride=(1,), stock=True),
    "stride of float": layer(ValueError, "stride", "an int", "2.0", stride=2.0),
    "stride as an array": layer(ValueError, "stride", "sequence of 2 ints", "array([2, 2])", stride=np.array([2, 2])),
    "negative dilation": layer(ValueError, "dilation", "at least 1", "-2", dilation=-2),
    "bool for a number": layer(ValueError, "padding", "True", padding=True),
    "padding string": layer(ValueError, "padding", "'SAME'", "'VALID'", "'full'", padding="full", stock=True),
    "padding CAUSAL": layer(ValueError, "padding", "'SAME'", "'causal'", padding="causal", stock=True),
    "padding length": layer(ValueError, "padding", "2", "(1, 2, 3)", padding=(1, 2, 3), stock=True),
    "padding as an array": layer(ValueError, "padding", "sequence", "array", padding=np.ones((2, 2), int), stock=True),
    "padding triples": layer(ValueError, "padding", "pairs", "(1, 2, 3)", padding=((1, 2, 3), (1, 2, 3))),
    "padding mixed": layer(
        ValueError, "padding", "ints or of 2 (before, after) pairs", "[1, (2, 3)]", padding=[1, (2, 3)],
    ),
    "padding None": layer(ValueError, "padding", "None", padding=None, stock=True),
    "padding_mode": layer(ValueError, "padding_mode", "'CIRCULAR'", "'same'", padding_mode="same", stock=True),
    "padding_mode None": layer(ValueError, "padding_mode", "'ZEROS'", "None", padding_mode=None),
    "num_spatial_dims": layer(ValueError, "num_spatial_dims", "-1", name="Conv", num_spatial_dims=-1),
    "num_spatial_dims of float": layer(ValueError, "num_spatial_dims", "2.0", name="Conv", num_spatial_dims=2.0),
    "unknown argument": layer(TypeError, "Conv2d", "'strides'", strides=2, stock=True),
    "missing argument": other(lambda: pc.Conv2d(4, 6, key=KEY), TypeError, "Conv2d", "kernel_size"),
    "missing key": other(lambda: pc.Conv2d(4, 6, 3), TypeError, "Conv2d", "key"),
    "integer parameters": layer(ValueError, "float", "int32", dtype=jnp.int32, stock=True),
    "reflect transposed": transposed(
        NotImplementedError, "padding_mode", "'REFLECT'", "'ZEROS' or 'CIRCULAR'", padding_mode="REFLECT", stock=True
    ),
    "replicate transposed": transposed(
        NotImplementedError, "padding_mode", "'replicate'", "'ZEROS' or 'CIRCULAR'", padding_mode="replicate", stock=True
    ),
    "circular transposed, padding": transposed(
        NotImplementedError, "padding_mode 'CIRCULAR'", "'SAME'", "((1, 1), (1, 1))", padding_mode="CIRCULAR",
        padding=1, stock=True
    ),
    "circular transposed, output_padding": transposed(
        NotImplementedError, "padding_mode 'CIRCULAR'", "output_padding=0", "(1, 1)",
        padding_mode="CIRCULAR", padding="SAME", stride=2, output_padding=1, stock=True,
    ),
    "output_padding": transposed(
        ValueError, "output_padding", "less than stride", "2", stride=2, output_padding=2, stock=True,
    ),
    "negative output_padding": transposed(ValueError, "output_padding", "at least 0", "-1", output_padding=-1),
    "activation": layer(ValueError, "activation", "'gelu_tanh'", "'relu6'", activation="relu6"),
    "activation as a function": layer(ValueError, "activation", "'relu'", "custom_jvp", activation=jax.nn.relu),
    "activation in a list": layer(ValueError, "activation", "['relu']", activation=["relu"]),
    "implementation": layer(ValueError, "implementation", "'mosaic'", "'cuda'", implementation="cuda"),
    "implementations": layer(ValueError, "implementation", "('mosaic', 'cpu')", implementation=("mosaic", "cpu")),
    "no implementation": layer(ValueError, "implementation", "()", implementation=()),
    "compute_dtype": layer(ValueError, "compute_dtype", "jnp.bfloat16", "'bf16'", compute_dtype="bf16"),
    "compute_dtype of integers": layer(ValueError, "compute_dtype", "floating-point", "int32", compute_dtype=jnp.int32),
    "compute_dtype complex": layer(ValueError, "compute_dtype", "complex64", "float32", "Cast", compute_dtype=COMPLEX),
    # calls of layers
    "a batch": layer(ValueError, "rank 3", "jax.vmap", "(2, 4, 8, 8)", x=jnp.ones((2, 4, 8, 8)), stock=True),
    "no channels axis": layer(ValueError, "rank 3", "(8, 8)", x=jnp.ones((8, 8)), stock=True),
    "channels of x": layer(ValueError, "x has 5 channels", "4", x=jnp.ones((5, 8, 8)), stock=True),
    "dtype of x": layer(
        TypeError, "bfloat16", "float32", "compute_dtype", x=jnp.ones((4, 8, 8), "bfloat16"), stock=True,
    ),
    "integer x": layer(TypeError, "int32", "float32", "Cast", x=jnp.ones((4, 8, 8), "int32"), stock=True),
    "x is a list": layer(TypeError, "x must be", "list", "jnp.asarray", x=[[[1.0]]]),
    "x is None": Bad(lambda nn: nn.Conv2d(4, 6, 3, key=KEY)(None), TypeError, ("x must be", "NoneType")),
    "x is a string": layer(TypeError, "x must be", "str", "'image.png'", x="image.png"),
    "an ensemble": Bad(lambda nn: ensemble(nn)(X), ValueError, ("weight", "(3, 6, 4, 3, 3)", "filter_vmap")),
    "no bias": Bad(lambda nn: replaced(nn, bias=None)(X), ValueError, ("bias", "(6, 1, 1)", "None")),
    "bias of another shape": Bad(
        lambda nn: replaced(nn, bias=jnp.ones((5, 1, 1)))(X), ValueError, ("bias", "(6, 1, 1)", "(5, 1, 1)"),
    ),
    "negative padding, circular": layer(
        ValueError, "padding must not be negative", "'CIRCULAR'", "'ZEROS'", "-1", padding=-1,
        padding_mode="CIRCULAR", stock=True
    ),
    "reflection of nothing": layer(
        ValueError, "'REFLECT'", "empty", "(0, 8)", "'ZEROS'", padding=1, padding_mode="REFLECT",
        x=jnp.ones((4, 0, 8)), stock=True
    ),
    "crop": layer(ValueError, "padding", "crop", "((-5, -5), (-5, -5))", "(8, 8)", padding=-5, stock=True),
    "unsupported": layer(pc.UnsupportedError, "'mosaic'", "Hopper", "NVIDIA GPU", implementation="mosaic"),
    # functions
    "fn: x is a list": conv(TypeError, "x must be", "list", "jnp.asarray", x=[1.0]),
    "fn: w is None": conv(TypeError, "w must be", "NoneType", w=None),
    "fn: b is a number": conv(TypeError, "b must be", "float", "jnp.asarray", b=2.0),
    "fn: rank of w": conv(ValueError, "w must have", "(6, 4)", w=jnp.ones((6, 4))),
    "fn: rank of x": conv(ValueError, "x must have", "3 axes", "(8, 8)", x=jnp.ones((8, 8))),
    "fn: shape of b": conv(ValueError, "b must have shape (6,)", "(6, 1, 1)", b=jnp.ones((6, 1, 1))),
    "fn: channels": conv(ValueError, "x has 4 channels", "2 groups", "8", groups=2),
    "fn: channels, channels last": conv(ValueError, "x has 8 channels", "3", layout="channels_last"),
    "fn: groups of outputs": conv(ValueError, "out_channels (=6)", "groups (=4)", w=jnp.ones((6, 1, 3, 3)), groups=4),
    "fn: groups": conv(ValueError, "groups must be an int", "'2'", groups="2"),
    "fn: dtypes": conv(TypeError, "bfloat16", "float32", "compute_dtype", w=W.astype("bfloat16")),
    "fn: kernel 0": conv(ValueError, "weight", "(0, 3)", w=jnp.ones((6, 4, 0, 3))),
    "fn: stride": conv(ValueError, "stride", "at least 1", "(1, 0)", stride=(1, 0)),
    "fn: stride as a string": conv(ValueError, "stride", "'22'", stride="22"),
    "fn: dilation": conv(ValueError, "dilation", "2", "(1, 1, 1)", dilation=(1, 1, 1)),
    "fn: padding": conv(ValueError, "padding", "'CAUSAL'", "'FULL'", padding="FULL"),
    "fn: padding_mode": conv(ValueError, "padding_mode", "'REFLECT'", "'constant'", padding_mode="constant"),
    "fn: activation": conv(ValueError, "activation", "'silu'", "'swish'", activation="swish"),
    "fn: layout": conv(ValueError, "layout", "'channels_last'", "'NHWC'", layout="NHWC"),
    "fn: layout as an array": conv(ValueError, "layout", "array([0., 0.])", layout=np.zeros(2)),
    "fn: precision": conv(ValueError, "precision", "'highest'", "'best'", precision="best"),
    "fn: precisions": conv(ValueError, "precision", "the same for both", "'default'", precision=("highest", "default")),
    "fn: implementation": conv(ValueError, "implementation", "'interpret'", "'triton'", implementation="triton"),
    "fn: compute_dtype": conv(ValueError, "compute_dtype", "floating-point", "int", compute_dtype=int),
    "fn: compute_dtype of complex": conv(
        ValueError, "compute_dtype", "complex64", "real part", x=X.astype(COMPLEX), compute_dtype="float32",
    ),
    "fn: out_dtype": conv(ValueError, "out_dtype", "floating-point", "int8", out_dtype=jnp.int8),
    "fn: out_dtype of complex": conv(
        ValueError, "out_dtype", "float32", "complex64", x=X.astype(COMPLEX), w=W.astype(COMPLEX), out_dtype="float32"
    ),
    "fn: crop": conv(ValueError, "padding", "crop", "-9", padding=((0, 0), (-9, 0))),
    "fn: transposed mode": conv_transpose(NotImplementedError, "padding_mode", "'REPLICATE'", padding_mode="REPLICATE"),
    "fn: transposed circular": conv_transpose(
        NotImplementedError, "'CIRCULAR'", "'SAME'", "'VALID'", padding_mode="CIRCULAR", padding="VALID",
    ),
    "fn: output_padding": conv_transpose(ValueError, "output_padding", "less than stride", "1", output_padding=1),
    "fn: output_padding length": conv_transpose(ValueError, "output_padding", "2", "(0,)", output_padding=(0,)),
    "fn: transposed crop": conv_transpose(ValueError, "padding", "crop", "stride", padding=20),
    "transpose_weight of a list": other(lambda: pc.transpose_weight([[[1.0]]]), TypeError, "w must be", "list"),
    "transpose_weight rank": other(lambda: pc.transpose_weight(jnp.ones((3, 3))), ValueError, "w must have", "(3, 3)"),
    "transpose_weight groups": other(lambda: pc.transpose_weight(W, 4), ValueError, "out_channels (=6)", "groups (=4)"),
    "transpose_weight layout": other(lambda: pc.transpose_weight(W, layout="HWIO"), ValueError, "layout", "'HWIO'"),
    "context": other(lambda: pc.implementation("gpu"), ValueError, "implementation", "'xla'", "'gpu'"),
    "context of None": other(lambda: pc.implementation(None), ValueError, "implementation", "'auto'", "None"),
    "explain's device": other(
        lambda: pc.explain(pc.conv, X, W, device="h800"), ValueError, "device", "'h100'", "'h800'",
    ),
}  # fmt: skip


def call(bad: Bad, how: str) -> Any:
    if how == "eager":
        return bad.call(pc)
    if how == "jit":  # of what is bad in the constants that a trace closes over, too
        return jax.jit(lambda: bad.call(pc))()
    return jax.vmap(lambda _: bad.call(pc))(jnp.zeros(2))


@pytest.mark.parametrize("how", ["eager", "jit", "vmap"])
@pytest.mark.parametrize("name", TABLE)
def test_bad_call(name, how):
    bad = TABLE[name]
    with pytest.raises(bad.error) as caught:
        call(bad, how)
    assert type(caught.value) is bad.error  # and no subclass: no error of JAX's tracing
    assert [text for text in bad.says if text not in str(caught.value)] == []


@pytest.mark.parametrize("name", [name for name, bad in TABLE.items() if bad.stock])
def test_the_type_is_that_of_equinox(name):
    bad = TABLE[name]
    with pytest.raises(Exception) as caught:  # noqa: PT011
        bad.call(eqx.nn)
    assert type(caught.value) is bad.error


@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (5, 8, 8), (8, 8)])
@pytest.mark.parametrize(
    "transform", [jax.jit, jax.vmap, jax.grad, eqx.filter_jit, lambda f: lambda x: jax.eval_shape(f, x)]
)
def test_bad_traced_input(transform, shape):
    """The shape of a tracer is checked as that of an array is, before anything is compiled."""
    run = lambda x: pc.Conv2d(4, 6, 3, key=KEY)(x).sum()
    shape = (3, *shape) if transform is jax.vmap else shape
    with pytest.raises(ValueError, match=r"rank 3|x has 5 channels"):
        transform(run)(jnp.ones(shape))


# Odd, but accepted by equinox: accepted here, with the same result.
ODD: dict[str, Callable[[Any], jax.Array]] = {
    "a kernel larger than the input": lambda nn: nn.Conv2d(4, 6, 9, key=KEY)(X),
    "no output channels": lambda nn: nn.Conv2d(4, 0, 3, key=KEY)(X),
    "an empty input": lambda nn: nn.Conv2d(4, 6, 3, key=KEY)(jnp.ones((4, 0, 8))),
    "padding of an empty input": lambda nn: nn.Conv2d(4, 6, 3, padding=3, key=KEY)(jnp.ones((4, 0, 8))),
    "an empty input, not padded": lambda nn: nn.Conv2d(4, 6, 1, padding_mode="CIRCULAR", key=KEY)(jnp.ones((4, 0, 8))),
    "lists": lambda nn: nn.Conv2d(4, 6, [3, 3], [1, 2], [[0, 1], [2, 1]], [1, 1], key=KEY)(X),
    "tuples of lists": lambda nn: nn.ConvTranspose2d(4, 6, [3, 3], [1, 2], [0, 1], ([0, 1], [2, 1]), key=KEY)(X),
    "a range": lambda nn: nn.Conv2d(4, 6, range(2, 4), key=KEY)(X),
    "lower case": lambda nn: nn.Conv2d(4, 6, 3, padding="same_lower", padding_mode="reflect", key=KEY)(X),
    "a number for use_bias": lambda nn: nn.Conv2d(4, 6, 3, use_bias=0, key=KEY)(X),
    "a key in the call": lambda nn: nn.Conv2d(4, 6, 3, key=KEY)(X, key=KEY),
    "an old-style key": lambda nn: nn.Conv2d(4, 6, 3, key=jax.random.PRNGKey(0))(X),
    "a dtype as a string": lambda nn: nn.Conv2d(4, 6, 3, dtype="bfloat16", key=KEY)(X.astype("bfloat16")),
    "a NumPy image in double precision": lambda nn: nn.Conv2d(4, 6, 3, key=KEY)(np.ones((4, 8, 8))),
    "no spatial dimensions": lambda nn: nn.Conv(0, 4, 6, (), key=KEY)(jnp.ones(4)),
    "five spatial dimensions": lambda nn: nn.Conv(5, 1, 2, 1, key=KEY)(jnp.ones((1, 2, 1, 2, 1, 2))),
    "padding of a transposed one that crops": lambda nn: nn.ConvTranspose2d(4, 6, 3, 2, 0, 6, key=KEY)(X),
    "a stride beyond everything": lambda nn: nn.Conv2d(4, 6, 3, 99, key=KEY)(X),
    "a replaced weight of another size": lambda nn: replaced(nn, weight=jnp.ones((6, 4, 1, 5)))(X),
    "a replaced bias of one number": lambda nn: replaced(nn, bias=0.5)(X),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_odd_but_accepted(name):
    ours, stock = ODD[name](pc), ODD[name](eqx.nn)
    assert (ours.shape, ours.dtype) == (stock.shape, stock.dtype)
    np.testing.assert_allclose(np.asarray(ours, np.float32), np.asarray(stock, np.float32), rtol=1e-5, atol=1e-5)
