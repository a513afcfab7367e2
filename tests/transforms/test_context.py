"""`with pc.implementation(...)`: part of the key under which JAX keeps traced functions, one value a thread."""

import threading

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import pallas_conv as pc
from pallas_conv.dispatch.implementation import preferences
from tests.transforms.programs import implementations

X, W = jnp.ones((2, 3, 5, 5)), jnp.ones((4, 3, 3, 3))


class Counted:
    """A function that counts how often it is traced, and remembers under which names."""

    def __init__(self, wrap=lambda f: f):
        self.seen = []
        self.call = jax.jit(wrap(self._traced))

    def _traced(self, x):
        self.seen.append(preferences(None))
        return pc.conv(x, W, padding=1)


WRAPPED = {
    "jit": lambda f: f,
    "inner jit": jax.jit,
    "vmap": lambda f: jax.vmap(f),
    "grad": lambda f: jax.grad(lambda x: f(x).sum()),
    "checkpoint": lambda f: jax.grad(lambda x: jax.checkpoint(f)(x).sum()),
    "scan": lambda f: lambda x: lax.scan(lambda s, x: (s, f(x)), 0.0, x)[1],
    "cond": lambda f: lambda x: lax.cond(x.sum() > 0, f, lambda x: 2 * f(x), x),
    "while": lambda f: lambda x: lax.fori_loop(0, 2, lambda i, s: s + f(x), jnp.zeros((2, 4, 5, 5))),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_retraces_once_for_each_choice(name):
    counted = Counted(WRAPPED[name])
    for choice in ("auto", "xla", "auto", ("mosaic", "xla"), "xla"):
        with pc.implementation(choice):
            counted.call(X)
    assert set(counted.seen) == {("auto",), ("xla",), ("mosaic", "xla")}
    assert counted.call._cache_size() == 3


def test_eager_scan_with_one_body():
    """JAX keeps the body's program by the function and the context."""
    seen = []

    def body(s, x):
        seen.append(preferences(None))
        return s, pc.conv(x, W)

    for choice in ("auto", "xla", "auto", "xla"):
        with pc.implementation(choice):
            lax.scan(body, 0.0, X[None])
    assert seen == [("auto",), ("xla",)]


def test_equations_carry_the_choice():
    f = lambda x: pc.conv(x, W)
    assert implementations(f, X) == [("auto",)]
    with pc.implementation(("mosaic", "xla")):
        assert implementations(f, X) == [("mosaic", "xla")]
        with pc.implementation("xla"):
            assert implementations(f, X) == [("xla",)]
        assert implementations(f, X) == [("mosaic", "xla")]
    assert implementations(f, X) == [("auto",)]


def test_derivatives_keep_the_choice_of_their_call():
    """The context matters where a function is called, not where it is differentiated."""
    with pc.implementation("xla"):
        _, pull = jax.vjp(lambda x: pc.conv(x, W, activation="silu"), X)
    with pc.implementation(("mosaic", "xla")):
        assert set(implementations(pull, jnp.ones((2, 4, 3, 3)))) == {("xla",)}


def test_an_exception_leaves_the_context():
    with pytest.raises(KeyError), pc.implementation("xla"):
        raise KeyError
    assert implementations(lambda x: pc.conv(x, W), X) == [("auto",)]


@pytest.mark.parametrize("kind", ["function", "layer"])
def test_the_keyword_wins(kind):
    layer = pc.Conv2d(3, 4, 3, implementation="xla", key=jax.random.key(0))
    f = jax.vmap(layer) if kind == "layer" else lambda x: pc.conv(x, W, implementation="xla")
    with pc.implementation("mosaic"):
        assert implementations(f, X) == [("xla",)]
        f(X)  # a strict "mosaic" would raise on this CPU
        with pytest.raises(pc.UnsupportedError):
            pc.conv(X, W)


def test_threads_have_their_own():
    found, entered, leave = {}, threading.Event(), threading.Event()
    f = lambda x: pc.conv(x, W)

    def other():
        found["before"] = implementations(f, X)
        with pc.implementation("xla"):
            entered.set()
            leave.wait(60)
            found["inside"] = implementations(f, X)

    with pc.implementation(("mosaic", "xla")):
        thread = threading.Thread(target=other)
        thread.start()
        entered.wait(60)
        here = implementations(f, X)
        leave.set()
        thread.join()
    assert found == {"before": [("auto",)], "inside": [("xla",)]}
    assert here == [("mosaic", "xla")]


def test_one_object_may_be_entered_again():
    xla, f = pc.implementation("xla"), lambda x: pc.conv(x, W)
    with xla, pc.implementation("interpret"), xla:
        assert implementations(f, X) == [("xla",)]
    assert implementations(f, X) == [("auto",)]
    assert implementations(xla(f), X) == [("xla",)]  # as a decorator


def test_one_object_in_two_threads():
    """The other thread enters inside another context, and leaves last."""
    xla, f, steps = pc.implementation("xla"), lambda x: pc.conv(x, W), threading.Barrier(2)
    found = []

    def other():
        with pc.implementation(("mosaic", "xla")):
            with xla:
                steps.wait(60)
                steps.wait(60)
                found.append(implementations(f, X))
            found.append(implementations(f, X))

    thread = threading.Thread(target=other)
    with xla:
        thread.start()
        steps.wait(60)
    assert implementations(f, X) == [("auto",)]
    steps.wait(60)
    thread.join()
    assert found == [[("xla",)], [("mosaic", "xla")]]
    assert implementations(f, X) == [("auto",)]


def test_one_jitted_function_in_many_threads():
    """Never another thread's program, whoever traced first."""
    number = {("auto",): 0, ("xla",): 1, ("mosaic", "xla"): 2}
    tag = lambda x: (pc.conv(x, W), jnp.int32(number[preferences(None)]))
    f, wrong = jax.jit(tag), []

    def work(choice):
        for _ in range(30):
            with pc.implementation(choice):
                if int(f(X)[1]) != number[choice]:
                    wrong.append(choice)

    threads = [threading.Thread(target=work, args=(choice,)) for choice in 2 * list(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert f._cache_size() == len(number)


def test_traced_inside_lowered_outside():
    with pc.implementation("mosaic"):
        traced = jax.jit(lambda x: pc.conv(x, W)).trace(X)
    with pytest.raises(pc.UnsupportedError, match="cannot serve the fprop product"):
        traced.lower()
    with pc.implementation("xla"):
        traced = jax.jit(lambda x: pc.conv(x, W)).trace(X)
    with pc.implementation("mosaic"):
        traced.lower().compile()(X)


@pytest.mark.parametrize("name", [None, "cuda", (), ("xla", "fast"), 3])
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match="implementation must be one of"):
        pc.implementation(name)
