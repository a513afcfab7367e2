"""implementation="xla" is the program of stock equinox, operation by operation; importing the package touches nothing."""

import collections
import os
import re
import subprocess
import sys
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import pallas_conv as pc

# (class, arguments, spatial shape)
LAYERS: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    "1d": ("Conv1d", {"padding": 1}, (16,)),
    "2d": ("Conv2d", {"padding": "SAME"}, (12, 10)),
    "2d, no bias": ("Conv2d", {"use_bias": False}, (12, 10)),
    "strided": ("Conv2d", {"stride": 2, "padding": 1}, (12, 10)),
    "dilated": ("Conv2d", {"dilation": 2}, (12, 10)),
    "grouped": ("Conv2d", {"groups": 4, "padding": 1}, (12, 10)),
    "circular": ("Conv2d", {"padding": "SAME", "padding_mode": "CIRCULAR"}, (12, 10)),
    "reflect": ("Conv1d", {"padding": 2, "padding_mode": "REFLECT"}, (16,)),
    "3d": ("Conv3d", {"padding": 1}, (6, 5, 4)),
    "bfloat16": ("Conv2d", {"padding": 1, "dtype": jnp.bfloat16}, (12, 10)),
    "transposed 1d": ("ConvTranspose1d", {"stride": 2, "output_padding": 1}, (16,)),
    "transposed 2d": ("ConvTranspose2d", {"stride": 2, "padding": 1}, (12, 10)),
    "transposed, grouped": ("ConvTranspose2d", {"stride": 2, "groups": 2}, (12, 10)),
    "transposed, circular": ("ConvTranspose2d", {"stride": 2, "padding": "SAME", "padding_mode": "CIRCULAR"}, (12, 10)),
    "transposed 3d": ("ConvTranspose3d", {"stride": 2}, (4, 3, 3)),
}


def opcodes(compiled: Any) -> collections.Counter:
    """Number of times that each operation occurs in the optimised program, fused ones included."""
    found = re.findall(r"^\s+(?:ROOT )?%?[\w.-]+ = (?:\(.*?\)|\S+) ([a-z][\w-]*)\(", compiled.as_text(), re.MULTILINE)
    return collections.Counter(found)


def compile_pair(name: str, batch: int | None, gradient: bool) -> list[Any]:
    """Stock's program and ours, of the parameters and a batch."""
    cls, kwargs, spatial = LAYERS[name]
    programs = []
    for nn, extras in ((eqx.nn, {}), (pc, {"implementation": "xla"})):
        layer = getattr(nn, cls)(4, 8, 3, key=jax.random.key(0), **kwargs, **extras)
        params, static = eqx.partition(layer, eqx.is_array)

        def f(params: Any, x: jax.Array, static: Any = static) -> jax.Array:
            layer = eqx.combine(params, static)
            return layer(x) if batch is None else jax.vmap(layer)(x)

        def loss(params: Any, x: jax.Array, f: Any = f) -> jax.Array:
            return jnp.sum(jnp.square(f(params, x).astype(jnp.float32)))

        x = jax.ShapeDtypeStruct((*([] if batch is None else [batch]), 4, *spatial), layer.weight.dtype)
        run = jax.grad(loss, (0, 1)) if gradient else f
        programs.append(jax.jit(run).lower(params, x).compile())
    return programs


@pytest.mark.parametrize("batch", [None, 3])
@pytest.mark.parametrize("name", LAYERS)
def test_forward_is_the_same_program(name, batch):
    stock, ours = compile_pair(name, batch, gradient=False)
    assert opcodes(ours) == opcodes(stock)
    assert opcodes(stock).total() >= 3  # parameters and what becomes of them: the programs were read
    assert flops(ours) == flops(stock) > 0


def flops(compiled: Any) -> float:
    return compiled.cost_analysis()["flops"]


@pytest.mark.parametrize("name", LAYERS)
def test_gradient_costs_no_more(name):
    stock, ours = compile_pair(name, 3, gradient=True)
    assert flops(ours) <= flops(stock)
    assert flops(stock) > 0


# ---------------------------------------------------------------- import


def run_python(code: str, *options: str, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *options, "-c", code], env=os.environ | env, capture_output=True, text=True, timeout=200
    )


IMPORT = """
import sys

def refuse(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system"):
        raise RuntimeError(f"{event} {args}")

import jax, equinox
before = set(sys.modules)
sys.addaudithook(refuse)
import pallas_conv as pc
loaded = set(sys.modules) - before
assert not [name for name in loaded if "pallas" in name.replace("pallas_conv", "") or name.startswith("inox")], loaded
pc.Conv2d, pc.conv, pc.explain
"""


def test_import_is_quiet_and_touches_nothing():
    """No warning, no Pallas, no network, no child process, and no JAX backend: initialising this one would raise."""
    done = run_python(IMPORT, "-W", "error", JAX_PLATFORMS="no_such_platform")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_calls_are_quiet_and_need_no_pallas():
    """Forward and gradient on a CPU: no warning, nothing logged, and no kernel was imported."""
    code = """
import sys, jax, pallas_conv as pc
layer = pc.Conv2d(3, 4, 3, key=jax.random.key(0))
jax.grad(lambda x: pc.conv(layer(x), layer.weight[:, :1], groups=4).sum())(jax.numpy.ones((3, 8, 8)))
assert not [name for name in sys.modules if name.startswith("jax.experimental.pallas")]
"""
    done = run_python(code, "-W", "error")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
