"""`pallas_conv.lax.patched`: what finds ours inside, and that nothing stays patched."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import pallas_conv as pc
from pallas_conv import lax as ours
from tests.lax.calls import NAMES, W, X, draw, served


def everything():
    return {name: getattr(lax, name) for name in NAMES}


STOCK = everything()


@pytest.fixture(autouse=True)
def nothing_stays_patched():
    yield
    assert everything() == STOCK


def test_code_that_calls_lax_finds_ours_inside():
    f = lambda x, w: jnp.sum(lax.conv(x, w, (1, 1), "SAME") ** 2)
    x, w = draw(*X), draw(*W)
    with ours.patched():
        assert everything() == {name: getattr(ours, name) for name in NAMES}
        assert served(jax.value_and_grad(f, (0, 1)), x, w) == 3
        got = jax.value_and_grad(f, (0, 1))(x, w)
    assert pc.explain(f, x, w).unconverted == 1
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), got, jax.value_and_grad(f, (0, 1))(x, w))


def tracing():
    """A jitted function, and whether it found ours, each time that it was traced."""
    traced = []

    @jax.jit
    def f(x, w):
        traced.append(lax.conv is ours.conv)
        return lax.conv(x, w, (1, 1), "SAME")

    return lambda: f(draw(*X), draw(*W)), traced


def test_what_was_traced_outside_is_traced_anew_inside():
    run, traced = tracing()
    run()
    with ours.patched():
        run()
        run()
    run()
    assert traced == [False, True]


def test_it_is_undone_by_an_exception_and_nests():
    with pytest.raises(KeyError), ours.patched(), ours.patched():
        raise KeyError
    assert everything() == STOCK
    with ours.patched():
        with ours.patched():
            pass
        assert lax.conv is ours.conv
    assert lax.conv is STOCK["conv"]


def test_it_is_a_decorator_that_can_be_used_again():
    @ours.patched()
    def f(n):
        assert lax.conv is ours.conv
        return n if n == 0 else f(n - 1)

    assert [f(2), f(1)] == [0, 0]


def test_threads_that_overlap():
    """The last one out restores lax."""
    first_in, second_out, seen = threading.Event(), threading.Event(), []

    def first():
        with ours.patched():
            first_in.set()
            assert second_out.wait(60)
            seen.append(lax.conv is ours.conv)

    thread = threading.Thread(target=first)
    thread.start()
    assert first_in.wait(60)
    with ours.patched():
        pass
    second_out.set()
    thread.join(60)
    assert seen == [True]


def test_generators_that_end_in_another_order():
    """Traces made after `patched` are told from those made inside."""
    run, traced = tracing()

    def generator():
        with ours.patched():
            yield

    first, second = generator(), generator()
    next(first), next(second)
    run()
    first.close()
    assert lax.conv is ours.conv
    second.close()
    assert lax.conv is STOCK["conv"]
    run()
    with ours.patched():
        run()
    assert traced == [True, False]


def test_equinox_itself_can_be_patched():
    import equinox as eqx

    layer = eqx.nn.Conv2d(4, 6, 3, padding=1, key=jax.random.key(0))
    with ours.patched():
        assert served(jax.vmap(layer), draw(*X)) == 1
