"""`explain`, and that compiled programs hold exactly what it says."""

import dataclasses
import pickle
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import pallas_conv as pc
from pallas_conv import target
from pallas_conv.kernels import families, gpu
from workloads.models import convnext, efficientnet, mamba, resnet


def images(*shape, dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct(shape, dtype)


def loss(model, x):
    return jnp.sum(jax.vmap(model)(x).astype(jnp.float32) ** 2)


def test_the_generations_that_kernels_are_for_are_told(monkeypatch):
    other = dataclasses.replace(gpu.HOPPER, name="Another", capability=(10, 0))
    monkeypatch.setitem(gpu.GENERATIONS, other.capability, other)
    layer = pc.Conv2d(64, 32, 3, key=jax.random.key(0))
    for device in ("cpu", "a100"):
        (found,) = pc.explain(layer, images(64, 28, 28, dtype=jnp.float32), device=device)
        assert any("compute capability 9.0 (Hopper) or 10.0 (Another)" in reason for reason in found.reasons), device


def test_a_layer_names_the_kernel_that_would_serve_it_and_why_it_does_not():
    layer = pc.Conv2d(64, 32, 3, padding=1, dtype=jnp.bfloat16, activation="relu", key=jax.random.key(0))
    (on_cpu,) = pc.explain(jax.vmap(layer), images(8, 64, 28, 28), device="cpu")
    assert on_cpu.implementation == "xla"
    assert on_cpu.kernel.name == "pallas_conv_dense_fprop_2d_bf16_s1_bias_relu"
    assert any("Hopper" in reason for reason in on_cpu.reasons)

    (on_h100,) = pc.explain(jax.vmap(layer), images(8, 64, 28, 28), device="h100")
    assert on_h100.implementation == "xla"
    assert any("doctor" in reason for reason in on_h100.reasons)
    assert on_h100.kernel.config == on_cpu.kernel.config  # of the GPU on which it would run

    (on_a100,) = pc.explain(jax.vmap(layer), images(8, 64, 28, 28), device="a100")
    assert any("8.0" in reason for reason in on_a100.reasons)

    again = pickle.loads(pickle.dumps(on_h100))
    assert (again, hash(again)) == (on_h100, hash(on_h100))

    text = str(pc.explain(jax.vmap(layer), images(8, 64, 28, 28), device="h100"))
    for part in ("64x28x28 -> 32x28x28", "batch 8", on_h100.kernel.name, str(on_h100.kernel.config), "doctor", "H100"):
        assert part in text


BLOCKS = {
    "convnext": (lambda key: convnext.Block(96, key), (96, 56, 56)),
    "efficientnet": (lambda key: efficientnet.MBConv(24, 40, 6, 5, 2, key), (24, 56, 56)),
    "mamba": (lambda key: mamba.Block(768, key), (1024, 768)),
    "resnext": (lambda key: resnet.AggregatedBottleneck(256, 64, 1, key), (256, 56, 56)),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_of_published_networks_train_by_kernels_alone(name):
    """Depthwise layers, and ResNeXt's groups of four channels, by the kernels for these."""
    build, shape = BLOCKS[name]
    half = lambda a: a.astype(jnp.bfloat16) if eqx.is_inexact_array(a) else a
    block = pc.convert(jax.tree.map(half, build(jax.random.key(0))))
    with pc.implementation("mosaic"):
        found = pc.explain(eqx.filter_grad(loss), block, images(128, *shape), device="h100")
    assert {plan.implementation for plan in found} == {"mosaic"}
    grouped = {plan.product.role: plan.kernel.family.name for plan in found if plan.product.spec.groups > 1}
    # Nobody wants the gradient of the input of ConvNeXt's, its first layer.
    assert grouped == dict.fromkeys(["fprop", "wgrad" if name == "convnext" else "bwd"], "depthwise")


def test_a_training_step_lists_only_the_products_somebody_needs():
    model = eqx.nn.Sequential(
        [
            pc.Conv2d(8, 16, 3, padding=1, key=jax.random.key(0)),
            pc.ConvTranspose2d(16, 8, 2, stride=2, key=jax.random.key(1)),
        ]
    )
    plans = pc.explain(eqx.filter_jit(eqx.filter_grad(loss)), model, images(4, 8, 8, 8, dtype=jnp.float32))
    assert [p.product.role for p in plans] == ["fprop", "fprop", "dgrad", "wgrad", "wgrad"]
    transposed = [p.product.spec.input_dilation == (2, 2) for p in plans]
    assert transposed == [False, True, True, True, False]


def test_it_says_what_is_not_converted():
    key, x = jax.random.key(0), images(2, 16, 8, 8, dtype=jnp.float32)
    model = eqx.nn.Sequential([eqx.nn.Conv2d(16, 16, 3, key=key), pc.Conv2d(16, 16, 3, key=key)])
    found = pc.explain(jax.vmap(model), x, device="h100")
    assert (len(found), found.unconverted) == (1, 1)
    assert "1 of jax.lax's own convolutions besides, which this package does not serve: see pallas_conv.convert" in str(
        found
    )
    assert "lax's own" not in str(pc.explain(jax.vmap(pc.convert(model)), x, device="h100"))


def test_keyword_arguments_are_passed_on():
    layer, x = pc.Conv2d(16, 16, 3, padding=1, key=jax.random.key(0)), images(16, 8, 8, dtype=jnp.float32)
    (found,) = pc.explain(layer, x, residual=x, device="h100")
    assert found.product.epilogue == "bias_residual"


def test_it_walks_into_control_flow():
    layer = pc.Conv1d(4, 4, 3, padding=1, key=jax.random.key(0))

    def f(x):
        x = jax.lax.fori_loop(0, 3, lambda _, h: layer(h), x)
        x = jax.lax.scan(lambda h, _: (jax.checkpoint(lambda h: layer(h))(h), None), x, length=2)[0]
        return jax.lax.cond(x.sum() > 0, lambda h: layer(h), lambda h: h, x)

    assert len(pc.explain(f, jax.ShapeDtypeStruct((4, 9), jnp.float32))) == 3


def test_strict_implementations_raise_with_every_reason():
    layer = pc.Conv1d(6, 18, 65, padding=32, key=jax.random.key(0), implementation="mosaic")
    with pytest.raises(pc.UnsupportedError) as error, jax.default_matmul_precision("highest"):
        pc.explain(layer, jax.ShapeDtypeStruct((6, 9), jnp.float32), device="a100")
    for part in ("8.0", "TF32", "64 a side"):
        assert part in str(error.value)
    assert len(error.value.reasons) == 3


def test_all_products_that_lack_a_kernel_are_listed_at_once(monkeypatch):
    for family in families.FAMILIES:
        forward_only = lambda p, served=family.reasons: served(p) if p.role == "fprop" else (f"no {p.role} today",)
        monkeypatch.setattr(family, "reasons", forward_only)
    layer = pc.Conv2d(8, 8, 3, stride=2, dtype=jnp.bfloat16, key=jax.random.key(0), implementation="mosaic")
    with pytest.raises(pc.UnsupportedError) as error:
        pc.explain(jax.grad(loss, argnums=1), layer, images(2, 8, 9, 9), device="h100")
    assert error.value.reasons == ("no dgrad today",)
    both = lambda w, x: loss(eqx.tree_at(lambda conv: conv.weight, layer, w), x)
    with pytest.raises(pc.UnsupportedError) as error:
        pc.explain(jax.grad(both, argnums=(0, 1)), layer.weight, images(2, 8, 9, 9), device="h100")
    assert error.value.reasons == ("no dgrad today", "no wgrad today")
    assert "no dgrad today" in str(error.value)
    assert "no wgrad today" in str(error.value)


@pytest.mark.parametrize("device", ["cpu", "h100"])
def test_sizes_that_are_symbols_are_explained_as_they_are_lowered(device):
    """A kernel is for sizes that are numbers."""
    x = jax.ShapeDtypeStruct(jax.export.symbolic_shape("n, 16, 8, 8"), jnp.bfloat16)
    w = jax.ShapeDtypeStruct((16, 16, 3, 3), jnp.bfloat16)
    for f in (lambda x, w: pc.conv(x, w, padding=1), lambda x, w: jax.grad(lambda w: loss_of(x, w))(w)):
        found = pc.explain(f, x, w, device=device)
        assert {plan.implementation for plan in found} == {"xla"}
        assert any("not symbols" in reason for plan in found for reason in plan.reasons)


def loss_of(x, w):
    return jnp.sum(pc.conv(x, w, padding=1).astype(jnp.float32))


def test_rounding_on_a_gpu_is_noted():
    layer = pc.Conv2d(8, 8, 3, compute_dtype=jnp.bfloat16, key=jax.random.key(0))
    step = eqx.filter_grad(loss)
    x = images(2, 8, 9, 9, dtype=jnp.float32)
    dw = lambda device: next(p for p in pc.explain(step, layer, x, device=device) if p.product.role == "wgrad")
    assert any("rounded to bfloat16 once" in note for note in dw("a100").notes)
    assert dw("cpu").notes == ()
    narrower = pc.explain(lambda x, w: pc.conv(x, w, out_dtype=jnp.bfloat16), jnp.ones((1, 2, 5)), jnp.ones((2, 2, 3)))
    assert narrower[0].notes == ()


# ---------------------------------------------------------------- what is compiled is what is explained


def ensemble(**how):
    return eqx.filter_vmap(lambda key: pc.Conv2d(4, 8, 3, **how | {"key": key}))(jax.random.split(how["key"], 3))


SAMPLE = {  # name -> (layer, input without batch): every family
    "conv2d": (lambda **how: pc.Conv2d(16, 32, 3, padding=1, activation="silu", **how), (16, 14, 14)),
    "strided": (lambda **how: pc.Conv2d(32, 16, 3, stride=2, padding=1, **how), (32, 15, 15)),
    "transposed": (lambda **how: pc.ConvTranspose2d(16, 8, 2, stride=2, **how), (16, 8, 8)),
    "grouped": (lambda **how: pc.Conv2d(16, 16, 3, groups=4, **how), (16, 12, 12)),
    "depthwise": (lambda **how: pc.Conv2d(16, 16, 3, stride=2, padding=1, groups=16, **how), (16, 13, 13)),
    "causal": (lambda **how: pc.Conv1d(8, 8, 2, dilation=4, padding=((4, 0),), **how), (8, 40)),
    "volume": (lambda **how: pc.Conv3d(4, 8, 3, padding="SAME", **how), (4, 6, 6, 6)),
    "cropped": (lambda **how: pc.Conv2d(8, 8, 2, padding=((-1, 1), (0, 2)), **how), (8, 9, 9)),
    "float32": (lambda **how: pc.Conv2d(8, 8, 5, padding=2, **how | {"dtype": jnp.float32}), (8, 10, 10)),
    "ensemble": (ensemble, (4, 8, 8)),
}


def program(name, implementation):
    """A training step of arrays only, and its operands."""
    make, shape = SAMPLE[name]
    arrays, static = eqx.partition(make(dtype=jnp.bfloat16, key=jax.random.key(3)), eqx.is_array)
    leaves, tree = jax.tree.flatten(arrays)

    def forward(layer, x):
        if name == "ensemble":
            return eqx.filter_vmap(lambda layer, x: jax.vmap(layer)(x), in_axes=(eqx.if_array(0), None))(layer, x)
        return jax.vmap(layer)(x)

    def step(x, *leaves):
        def total(x, *leaves):
            layer = eqx.combine(jax.tree.unflatten(tree, leaves), static)
            return jnp.sum(forward(layer, x).astype(jnp.float32) ** 2)

        with pc.implementation(implementation):
            return jax.grad(total, argnums=tuple(range(len(leaves) + 1)))(x, *leaves)

    return step, [jax.ShapeDtypeStruct(t.shape, t.dtype) for t in (images(2, *shape, dtype=leaves[0].dtype), *leaves)]


def found_in(text):
    """Kernels launched, and scopes of lax programs, in an optimised program."""
    launches = [line for line in text.splitlines() if 'custom_call_target="mosaic_gpu' in line]
    kernels = {re.search(r"/(pallas_conv_(?:(?:dense|depthwise)_[a-z]+|wgrad)_\dd_\w+)/", line)[1] for line in launches}
    return kernels | set(re.findall(r"pallas_conv_(?:fprop|dgrad|wgrad)_(?!\dd_)[a-z0-9_]+", text))


@pytest.mark.parametrize("name", SAMPLE)
def test_the_cpu_program_holds_what_explain_printed(name):
    step, operands = program(name, "auto")
    plans = pc.explain(step, *operands, device="cpu")
    text = jax.jit(step).lower(*operands).compile().as_text()
    assert found_in(text) == {p.scope for p in plans}


@pytest.mark.aot
@pytest.mark.parametrize(
    ("name", "gpu"),
    [
        pytest.param(name, gpu, marks=[pytest.mark.extended] * (gpu == "a100" and i % 3 > 0))
        for i, name in enumerate(SAMPLE)
        for gpu in ("h100", "a100")
    ],
)
def test_the_gpu_program_holds_what_explain_printed(name, gpu):
    from compiled import aot

    step, operands = program(name, ("mosaic", "xla"))
    plans = pc.explain(step, *operands, device=gpu)
    text = aot.compile_for(gpu, step, *operands).as_text()
    assert found_in(text) == {p.scope for p in plans}
    if gpu == "a100":
        assert all(p.implementation == "xla" for p in plans)
    if name in ("conv2d", "strided", "transposed", "depthwise") and gpu == "h100":
        roles = ("fprop", "bwd") if name == "depthwise" else ("fprop", "dgrad", "wgrad")
        assert [(p.product.role, p.implementation) for p in plans] == [(role, "mosaic") for role in roles]


def test_a_cpu_that_multiplies_bfloat16_matrices(monkeypatch):
    """The same layer in bfloat16, on CPUs with and without Intel's AMX."""
    layer = pc.Conv2d(64, 64, 3, padding=1, dtype="bfloat16", key=jax.random.key(0))
    x = jax.ShapeDtypeStruct((2, 64, 32, 32), "bfloat16")
    chosen = {}
    for amx in (False, True):
        (plan,) = pc.explain(jax.vmap(layer), x, device=target.Target("cpu", amx=amx))
        chosen[amx] = plan.formulation
        assert ("(AMX)" in str(plan.target)) == amx
    assert chosen == {False: "channels_last", True: "split_im2col"}
    for flags, amx in (("flags : avx512f amx_bf16", True), ("flags : avx2", False)):
        monkeypatch.setattr(target.pathlib.Path, "read_text", lambda path, flags=flags: flags)
        assert target.this_cpu.__wrapped__() == target.Target("cpu", amx=amx)


def test_targets():
    assert target.resolve("H100").capability == (9, 0)
    assert target.resolve(jax.devices()[0]).platform == "cpu"
    assert target.from_device_kind("NVIDIA GB200").capability == (10, 0)
    assert target.from_device_kind("NVIDIA RTX 9999").capability is None
    for name in ("NVIDIA H100 PCIe", "NVIDIA A100-SXM4-80GB", "NVIDIA RTX 9999"):
        assert target.resolve(name) == target.from_device_kind(name)
    assert target.resolve("NVIDIA H100 PCIe").num_sms == 114
    for device in ("abacus", "RTX 9999", 3):
        with pytest.raises(ValueError, match="'h100'"):
            pc.explain(lambda x: x, jnp.ones(3), device=device)


def test_a_gpu_that_is_not_known_gets_a_lax_program_and_the_reason():
    layer = pc.Conv2d(16, 32, 3, padding=1, dtype=jnp.bfloat16, key=jax.random.key(0))
    told = pc.explain(jax.vmap(layer), images(2, 16, 9, 9, dtype=jnp.bfloat16), device="NVIDIA RTX 9999")
    assert "NVIDIA RTX 9999" in str(told)
    assert told[0].implementation == "xla"
    assert "the GPU is unknown" in told[0].reasons[0]


@pytest.mark.parametrize("mode", ["REFLECT", "REPLICATE", "CIRCULAR"])
def test_borders_that_take_a_copy(mode):
    layer = pc.Conv2d(4, 4, 3, padding=1, padding_mode=mode, key=jax.random.key(0))
    x = jax.ShapeDtypeStruct((2, 4, 8, 9), jnp.float32)
    told = pc.explain(jax.vmap(layer), x, device="h100")
    assert told.borders == (f"{mode} borders: a copy of float32[2,4,8,9] as float32[2,4,10,11], as in stock",)
    assert told.borders[0] in str(told)
    backward = pc.explain(jax.grad(lambda x: jax.vmap(layer)(x).sum()), x)
    assert "as float32[2,4,8,9]" in backward.borders[-1]
    zeros = pc.Conv2d(4, 4, 3, padding=1, key=jax.random.key(0))
    assert pc.explain(jax.vmap(zeros), x).borders == ()
