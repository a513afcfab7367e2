"""Convolutions in the bodies of loops and branches on a CPU: the library's, where XLA makes naive loops of stock's."""

import dataclasses
import functools
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import pallas_conv as pc
from compiled import hlo
from pallas_conv import formulations
from pallas_conv.equation import Op
from pallas_conv.spec import ConvSpec, Product
from workloads import loops


def naive(compiled) -> list[str]:
    """The convolutions that are computed by a fusion that loops over elements, and not by a library."""
    found, _ = hlo.bodies(compiled.as_text())
    loop_fusions = [i for body in found.values() for i in body if i.opcode == "fusion" and "kind=kLoop" in i.text]
    inner = [j for i in loop_fusions for name in hlo.CALLEES.findall(i.text) for j in found[name]]
    return [j.text for j in inner if j.opcode == "convolution"]


def convolutions(compiled) -> int:
    found, _ = hlo.bodies(compiled.as_text())
    return sum(i.opcode == "convolution" for body in found.values() for i in body)


@dataclasses.dataclass(frozen=True)
class Layer:
    x: tuple[int, ...]
    w: tuple[int, ...]
    how: dict = dataclasses.field(default_factory=dict)
    dtype: str = "float32"
    transposed: bool = False

    def operands(self):
        rng = np.random.default_rng(0)
        return tuple(jnp.asarray(rng.standard_normal(shape), self.dtype) for shape in (self.x, self.w))

    def gradients(self, x, w, **how):
        """Gradients of a loss in x and w: all three products."""
        conv = functools.partial(pc.conv_transpose if self.transposed else pc.conv, **self.how, **how)
        return jax.grad(lambda operands: jnp.mean(jnp.real(conv(*operands)).astype("float32") ** 2))((x, w))


LAYERS = {
    "3x3": Layer((4, 32, 12, 12), (32, 32, 3, 3), {"padding": 1}),
    "strided": Layer((4, 32, 13, 12), (24, 32, 3, 3), {"padding": 1, "stride": 2}),
    "dilated": Layer((4, 32, 12, 12), (32, 32, 3, 3), {"padding": 2, "dilation": 2}),
    "1x1": Layer((4, 32, 12, 12), (48, 32, 1, 1)),
    "transposed": Layer((4, 32, 8, 8), (24, 32, 4, 4), {"stride": 2, "padding": 1}, transposed=True),
    "groups": Layer((4, 32, 12, 12), (32, 8, 3, 3), {"padding": 1, "groups": 4}),
    "groups, few pixels": Layer((2, 64, 4, 4), (64, 16, 3, 3), {"padding": 1, "groups": 4}),
    "depthwise": Layer((4, 32, 12, 12), (32, 1, 3, 3), {"padding": 1, "groups": 32}),
    "few channels": Layer((4, 3, 16, 16), (16, 3, 3, 3), {"padding": 1}),
    "small": Layer((2, 8, 6, 6), (8, 8, 3, 3), {"padding": 1}),
    "cropped before, padded after": Layer((4, 32, 12, 12), (32, 32, 3, 3), {"padding": ((-1, 1), (1, 1))}),
    "1-D": Layer((4, 32, 64), (32, 32, 5), {"padding": 2}),
    "causal": Layer((4, 32, 64), (32, 32, 3), {"padding": "CAUSAL", "dilation": 4}),
    "3-D": Layer((2, 16, 8, 8, 8), (16, 16, 3, 3, 3), {"padding": 1}),
    "strided 3-D": Layer((2, 16, 8, 8, 8), (16, 16, 3, 3, 3), {"padding": 1, "stride": 2}),
    "transposed 3-D": Layer((2, 16, 4, 4, 4), (16, 16, 2, 2, 2), {"stride": 2}, transposed=True),
    "bfloat16": Layer((4, 32, 12, 12), (32, 32, 3, 3), {"padding": 1}, "bfloat16"),
    "float16": Layer((4, 32, 12, 12), (32, 32, 3, 3), {"padding": 1}, "float16"),
}  # fmt: skip

CONTROL_FLOW = {
    "scan": lambda f, v: lax.scan(lambda v, _: (f(v), None), v, None, length=3)[0],
    "fori_loop": lambda f, v: lax.fori_loop(0, 3, lambda _, v: f(v), v),
    "while_loop": lambda f, v: lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, f(s[1])), (0, v))[1],
    "map": lambda f, v: lax.map(f, jax.tree.map(lambda t: jnp.stack([t, 2 * t]), v)),
    "cond": lambda f, v: lax.cond(v[0].ravel()[0] > 0, f, lambda v: v, v),
    "switch": lambda f, v: lax.switch(v[0].ravel()[0].astype(int), [lambda v: v, f, lambda v: v], v),
}


def step(layer: Layer, **how):
    """One step of gradient descent in x and w."""
    return lambda v: jax.tree.map(lambda t, g: t - 0.01 * g.astype(t.dtype), v, layer.gradients(*v, **how))


def compiled(layer: Layer, flow: str, **how):
    return jax.jit(lambda v: CONTROL_FLOW[flow](step(layer, **how), v)).lower(layer.operands()).compile()


@pytest.mark.parametrize("name", LAYERS)
def test_no_loop_holds_a_naive_convolution(name):
    program = compiled(LAYERS[name], "scan")
    assert naive(program) == []
    assert re.search(r" while\(", program.as_text())


def test_few_channels_stay_naive():
    """A stencil of one channel: the library would take several times as long."""
    stencil = Layer((1, 1, 12, 12), (1, 1, 3, 3), {"padding": 1})
    assert len(naive(compiled(stencil, "scan"))) == 3


@pytest.mark.parametrize("flow", CONTROL_FLOW)
def test_nor_does_any_other_control_flow(flow):
    program = compiled(LAYERS["3x3"], flow)
    assert naive(program) == []
    assert convolutions(program) == 3


@pytest.mark.parametrize("flow", CONTROL_FLOW)
def test_stock_is_naive_there(flow):
    """Should XLA learn to bring convolutions into its form everywhere, none of this is needed any more."""
    assert len(naive(compiled(LAYERS["3x3"], flow, implementation="xla"))) == 3


@pytest.mark.parametrize(("name", "left"), [("3x3", 0), ("transposed", 0), ("3-D", 1), ("1-D", 3)])
def test_float64(name, left):
    """XLA's CPU compiler calls no library for one dimension of it, or for 16 channels at most, in whatever form and place."""
    with jax.enable_x64(True):
        layer = dataclasses.replace(LAYERS[name], dtype="float64")
        assert {t.dtype.name for t in layer.operands()} == {"float64"}
        flat = jax.jit(step(layer)).lower(layer.operands()).compile()
        assert (len(naive(compiled(layer, "scan"))), len(naive(flat))) == (left, left)


def test_complex_numbers():
    assert naive(compiled(dataclasses.replace(LAYERS["3x3"], dtype="complex64"), "scan")) == []


def test_of_a_network_in_a_loop_none_is_naive():
    for loop in (loop for loop in loops.LOOPS if loop.name != "heat equation, 200 steps"):
        model = pc.convert(loop.build(jax.random.key(0)))
        x = jax.eval_shape(loop.inputs, jax.random.key(0))
        arrays, static = eqx.partition(model, eqx.is_array)
        run = lambda arrays, x, static=static, loop=loop: eqx.filter(
            loop.run(eqx.combine(arrays, static), x), eqx.is_array
        )
        program = jax.jit(run).lower(arrays, x).compile()
        assert naive(program) == [], loop.name


# ---------------------------------------------------------------- outside of loops


ROLES = ("fprop", "dgrad", "wgrad")
ONE, SAME = (1, 1), ((1, 1), (1, 1))
PRODUCTS = {
    "3x3": (4, 16, 24, ConvSpec(ONE, SAME, ONE, ONE, 1, (12, 11), (3, 3))),
    "strided": (4, 16, 24, ConvSpec((2, 2), SAME, ONE, ONE, 1, (12, 11), (3, 3))),
    "dilated": (4, 16, 24, ConvSpec(ONE, ((2, 2), (2, 2)), ONE, (2, 2), 1, (12, 11), (3, 3))),
    "transposed": (4, 16, 24, ConvSpec(ONE, ((2, 2), (2, 2)), (2, 2), ONE, 1, (6, 5), (4, 4))),
    "1x1": (4, 16, 24, ConvSpec(ONE, ((0, 0), (0, 0)), ONE, ONE, 1, (12, 11), (1, 1))),
    "few channels": (4, 3, 24, ConvSpec(ONE, SAME, ONE, ONE, 1, (12, 11), (3, 3))),
    "groups": (4, 16, 24, ConvSpec(ONE, SAME, ONE, ONE, 2, (12, 11), (3, 3))),
    "depthwise": (4, 16, 16, ConvSpec(ONE, SAME, ONE, ONE, 16, (12, 11), (3, 3))),
    "1-D": (4, 16, 24, ConvSpec((1,), ((4, 0),), (1,), (2,), 1, (32,), (3,))),
    "3-D": (2, 4, 8, ConvSpec((1,) * 3, ((1, 1),) * 3, (1,) * 3, (1,) * 3, 1, (6, 5, 4), (3, 3, 3))),
}


def optimised(formulation: str, role: str, batch: int, c: int, o: int, spec: ConvSpec, dtype: str) -> str:
    """The program's text without names and metadata."""
    op = Op(spec, np.dtype(dtype), np.dtype(dtype))
    shapes = {
        "x": (batch, c, *spec.in_spatial),
        "w": (o, c // spec.groups, *spec.kernel_spatial),
        "ct": (batch, o, *spec.out_spatial),
    }
    names = {"fprop": "xw", "dgrad": ("ct", "w"), "wgrad": ("x", "ct")}[role]
    operands = [jax.ShapeDtypeStruct(shapes[name], dtype) for name in names]
    product = Product(role, spec, batch, c, o, dtype, dtype)
    f = lambda a, b: formulations.run_formulation(
        formulation, product, a, b, op, np.dtype(dtype), wide_sums=True, on_cpu=True
    )
    text = jax.jit(f).lower(*operands).compile().as_text()
    text = re.sub(r", metadata=\{[^}]*\}", "", text[re.search(r"^(%|ENTRY)", text, re.MULTILINE).start() :])
    names_in_order: dict[str, str] = {}
    text = re.sub(r"%[\w.-]+", lambda m: names_in_order.setdefault(m[0], f"%{len(names_in_order)}"), text)
    return re.sub(r"\b(a|b)\.\d+|main\.\d+", "", text)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("name", PRODUCTS)
def test_the_program_is_stocks_outside_of_loops(name, role):
    """Line by line: channels last is what XLA itself makes of it there."""
    stock, ours = (
        optimised(f, role, *PRODUCTS[name], "float32") for f in (formulations.STOCK, formulations.CHANNELS_LAST)
    )
    assert ours == stock
    assert "convolution" in stock
