"""The runner of one product: what it launches, twice, and which configurations it takes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bench import one
from compiled import aot
from pallas_conv.kernels import serve
from pallas_conv.kernels.gpu import ANY_HOPPER, Gpu
from pallas_conv.spec import Product

NAME, SMALL = "resnet50_c3_s2/d", "small_1d_causal/f"


def product_of(name: str) -> Product:
    case, direction = one.NAMES[name]
    return case.products()[direction]


PRODUCT = product_of(NAME)


def test_the_products_to_look_at_first_are_there():
    for name in ("resnet50_c4/f", "unet_mid/f", "resnet50_c2/f"):
        assert name in one.NAMES
        assert name in one.__doc__


def test_a_configuration_is_todays_choice_but_for_what_is_given():
    today = serve.choose(PRODUCT)
    assert one.configured(PRODUCT, ANY_HOPPER, {}).config == today
    assert one.configured(PRODUCT, ANY_HOPPER, {"epi_stages": 1}).config == dataclasses.replace(today, epi_stages=1)


@pytest.mark.parametrize(
    ("changes", "why"), [({"stages": 1}, "stages=1"), ({"stages": "3"}, "--config.stages"), ({"x": 1}, "unknown ['x']")]
)
def test_what_the_kernel_does_not_take_is_refused(changes, why):
    with pytest.raises(ValueError, match="--config") as refused:
        one.configured(PRODUCT, ANY_HOPPER, changes)
    assert why in str(refused.value)


def test_it_warms_up_and_launches_once():
    calls = []
    assert float(one.launch(lambda x: calls.append(1) or x + 1, (jnp.float32(1),))) == 2
    assert len(calls) == 2


@pytest.mark.aot
def test_what_is_profiled_is_one_kernel_by_the_name_that_the_command_gives():
    made = one.program(NAME, "mosaic", serve.kernel(PRODUCT))
    _, used = aot.resources("h100", made.function, *made.shapes)
    assert used.kernels == 1
    assert ".entry pallas_conv_dense" in used.ptx


@pytest.mark.parametrize("implementation", ["mosaic", "stock"])
def test_dry_run(implementation, capsys):
    assert one.main([SMALL, "--dry-run", "--implementation", implementation]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{SMALL} by {implementation}")
    assert said.endswith("launched: bfloat16(2, 8, 20)\n")
    assert ("tile_pixels=" in said) == (implementation == "mosaic")


def test_both_implementations_compute_the_same():
    case, direction = one.NAMES[SMALL]
    kernel = one.configured(product_of(SMALL), Gpu(2), {"stages": 3})
    made = [one.program(SMALL, implementation, kernel, interpret=True) for implementation in ("mosaic", "stock")]
    ours, stock = (np.asarray(jax.jit(it.function)(*case.arrays(direction)), "float32") for it in made)
    np.testing.assert_allclose(ours, stock, rtol=0.02, atol=0.02)


def test_errors_are_told(capsys):
    assert one.main([SMALL, "--dry-run", "--config", '{"stages": 1}']) == 1
    assert "must be 2 to" in capsys.readouterr().err
    assert one.main([NAME, "--dry-run"]) == 1
    assert "too large to interpret; take one of small_3x3/f" in capsys.readouterr().err
    assert one.main([SMALL]) == 2
    assert "JAX sees no GPU" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        one.main(["no_such_layer/f"])
