"""Every transformation of JAX, of layers and functions of this package, against the same of stock equinox, in float64."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import checkify, jet
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import pallas_conv as pc
from tests.transforms.problems import FUNCTIONS, LAYERS, Calls, Data, Problem, assert_close, data, layer

Case = Callable[[Calls, Data], Any]
CASES: dict[str, Case] = {}


def transformation(case: Case) -> Case:
    CASES[case.__name__] = case
    return case


def images(call):
    """A layer on a batch, as equinox does it."""
    return jax.vmap(call, (None, None, 0))


def loss(call):
    return lambda w, b, x: jnp.sum(jnp.sin(call(w, b, x)))


def batch_loss(call):
    return loss(images(call))


def args(d: Data):
    return d.w, d.b, d.x


def example(d: Data):
    return d.w, d.b, d.x[0]


# ---------------------------------------------------------------- vmap


@transformation
def forward_pass(f, d):
    return f.strided(*example(d))


@transformation
def vmap_x(f, d):
    return images(f.strided)(*args(d))


@transformation
def vmap_w(f, d):
    return jax.vmap(f.strided, (0, None, None))(d.ws, d.b, d.x[0])


@transformation
def vmap_b(f, d):
    return jax.vmap(f.strided, (None, 0, None))(d.w, d.bs, d.x[0])


@transformation
def vmap_w_b(f, d):
    return jax.vmap(f.strided, (0, 0, None))(d.ws, d.bs, d.x[0])


@transformation
def vmap_x_b(f, d):
    return jax.vmap(f.strided, (None, 0, 0))(d.w, d.bs, d.x[:2])


@transformation
def vmap_x_w(f, d):
    return jax.vmap(f.strided, (0, None, 0))(d.ws, d.b, d.x[:2])


@transformation
def vmap_all(f, d):
    return jax.vmap(f.strided)(d.ws, d.bs, d.x[:2])


@transformation
def vmap_nested_x(f, d):
    return jax.vmap(images(f.strided), (None, None, 0))(d.w, d.b, d.xs)


@transformation
def vmap_models_sharing_x(f, d):
    return jax.vmap(images(f.strided), (0, 0, None))(d.ws, d.bs, d.x)


@transformation
def vmap_images_over_models_sharing_x(f, d):
    return jax.vmap(jax.vmap(f.strided, (0, 0, None)), (None, None, 0))(d.ws, d.bs, d.x)


@transformation
def vmap_ensemble(f, d):
    return jax.vmap(images(f.strided))(d.ws, d.bs, d.xs)


@transformation
def vmap_ensemble_of_ensembles(f, d):
    twice = lambda t: jnp.stack([t, 2 * t, 3 * t])
    return jax.vmap(jax.vmap(images(f.strided)))(*map(twice, (d.ws, d.bs, d.xs)))


@transformation
def vmap_models_of_ensembles_sharing_x(f, d):
    twice = lambda t: jnp.stack([t, 2 * t, 3 * t])
    return jax.vmap(jax.vmap(images(f.strided)), (0, 0, None))(twice(d.ws), twice(d.bs), d.xs)


@transformation
def vmap_other_axes(f, d):
    moved = jnp.moveaxis(d.ws, 0, 3), d.bs.T, jnp.moveaxis(d.x[:2], 0, -1)
    return jax.vmap(f.strided, (3, 1, -1), out_axes=1)(*moved)


@transformation
def vmap_size_zero(f, d):
    none = lambda t: t[:0]
    return [
        jax.vmap(f.strided, axes)(*map(lambda t, a: t if a is None else none(t), ts, axes))
        for axes, ts in (
            ((None, None, 0), args(d)),
            ((0, None, None), (d.ws, *example(d)[1:])),
            ((0, 0, None), (d.ws, d.bs, d.x[0])),
            ((None, 0, None), (d.w, d.bs, d.x[0])),
        )
    ]


# ---------------------------------------------------------------- reverse mode


@transformation
def grad_w(f, d):
    return jax.grad(loss(f.strided))(*example(d))


@transformation
def grad_b(f, d):
    return jax.grad(loss(f.strided), 1)(*example(d))


@transformation
def grad_x(f, d):
    return jax.grad(loss(f.strided), 2)(*example(d))


@transformation
def value_and_grad_of_all(f, d):
    return jax.value_and_grad(loss(f.strided), (0, 1, 2))(*example(d))


@transformation
def grad_of_vmap(f, d):
    return jax.grad(batch_loss(f.strided), (0, 1, 2))(*args(d))


@transformation
def value_and_grad_of_vmap(f, d):
    return jax.value_and_grad(batch_loss(f.strided), (0, 1, 2))(*args(d))


@transformation
def per_example_gradients(f, d):
    return jax.vmap(jax.grad(loss(f.strided), (0, 1)), (None, None, 0))(*args(d))


@transformation
def per_example_gradients_of_all(f, d):
    return jax.vmap(jax.grad(loss(f.strided), (0, 1, 2)), (None, None, 0))(*args(d))


@transformation
def gradients_of_per_example_bias(f, d):
    per_example = lambda w, b, x: jnp.sum(jnp.sin(jax.vmap(f.strided, (None, 0, 0))(w, b, x)))
    return jax.grad(per_example, (0, 1, 2))(d.w, d.bs, d.x[:2])


@transformation
def ensemble_gradients(f, d):
    return jax.vmap(jax.grad(batch_loss(f.strided), (0, 1, 2)))(d.ws, d.bs, d.xs)


@transformation
def ensemble_gradients_sharing_x(f, d):
    return jax.vmap(jax.grad(batch_loss(f.strided), (0, 1)), (0, 0, None))(d.ws, d.bs, d.x)


@transformation
def gradient_of_shared_x_of_an_ensemble(f, d):
    total = lambda x: jnp.sum(jax.vmap(batch_loss(f.strided), (0, 0, None))(d.ws, d.bs, x))
    return jax.grad(total)(d.x)


@transformation
def ensemble_per_example_gradients(f, d):
    per_example = jax.vmap(jax.grad(loss(f.strided), (0, 1)), (None, None, 0))
    return jax.vmap(per_example)(d.ws, d.bs, d.xs)


@transformation
def vjp_pulled_for_several_cotangents(f, d):
    _, pull = jax.vjp(images(f.strided), *args(d))
    return jax.vmap(pull)(d.cts)


@transformation
def jacrev_w(f, d):
    return jax.jacrev(f.strided)(*example(d))


@transformation
def jacrev_x_b(f, d):
    return jax.jacrev(f.strided, (1, 2))(*example(d))


# ---------------------------------------------------------------- higher orders


@transformation
def hvp_forward_over_reverse(f, d):
    at = args(d)
    return jax.jvp(jax.grad(batch_loss(f.strided), (0, 1, 2)), at, jax.tree.map(jnp.cos, at))


@transformation
def hvp_of_single_operands(f, d):
    ds = []
    for i in range(3):
        gradient = lambda t, i=i: jax.grad(batch_loss(f.strided), (0, 1, 2))(*[*args(d)[:i], t, *args(d)[i + 1 :]])
        ds.append(jax.jvp(gradient, (args(d)[i],), (jnp.cos(args(d)[i]),))[1])
    return ds


@transformation
def hvp_reverse_over_forward(f, d):
    directional = lambda *at: jax.jvp(batch_loss(f.strided), at, jax.tree.map(jnp.cos, at))[1]
    return jax.grad(directional, (0, 1, 2))(*args(d))


@transformation
def hvp_reverse_over_reverse(f, d):
    def slope(*at):
        gs = jax.grad(batch_loss(f.strided), (0, 1, 2))(*at)
        return sum(jnp.vdot(g, jnp.cos(t)) for g, t in zip(gs, at, strict=True))

    return jax.grad(slope, (0, 1, 2))(*args(d))


@transformation
def hvp_of_an_ensemble(f, d):
    def hvp(*at):
        return jax.jvp(jax.grad(batch_loss(f.strided), (0, 1, 2)), at, jax.tree.map(jnp.cos, at))[1]

    return jax.vmap(hvp)(d.ws, d.bs, d.xs), jax.vmap(hvp, (0, 0, None))(d.ws, d.bs, d.x)


@transformation
def hessian_of_w(f, d):
    return jax.hessian(loss(f.strided))(*example(d))


@transformation
def hessian_of_all(f, d):
    return jax.hessian(loss(f.strided), (0, 1, 2))(*example(d))


@transformation
def gradient_penalty(f, d):
    """The double backward of WGAN-GP, per example."""

    def penalty(w, b):
        norms = jax.vmap(lambda x: (jnp.linalg.norm(jax.grad(loss(f.strided), 2)(w, b, x)) - 1) ** 2)(d.x)
        return jnp.sum(norms)

    return jax.grad(penalty, (0, 1))(d.w, d.b)


@transformation
def third_order(f, d):
    first = lambda *at: jax.grad(batch_loss(f.strided))(*at)
    second = lambda *at: jnp.vdot(jax.jvp(first, at, jax.tree.map(jnp.cos, at))[1], jnp.cos(at[0]))
    return jax.grad(second, (0, 1, 2))(*args(d))


@transformation
def third_order_forward(f, d):
    def along(g):
        return lambda *at: jax.jvp(g, at, jax.tree.map(jnp.cos, at))[1]

    return along(along(along(images(f.strided))))(*args(d))


# ---------------------------------------------------------------- forward mode and linear functions


@transformation
def jvp_of_all(f, d):
    return jax.jvp(images(f.strided), args(d), jax.tree.map(jnp.cos, args(d)))


@transformation
def jvp_x(f, d):
    return jax.jvp(lambda x: images(f.strided)(d.w, d.b, x), (d.x,), (jnp.cos(d.x),))


@transformation
def jvp_w(f, d):
    return jax.jvp(lambda w: images(f.strided)(w, d.b, d.x), (d.w,), (jnp.cos(d.w),))


@transformation
def jvp_b(f, d):
    return jax.jvp(lambda b: images(f.strided)(d.w, b, d.x), (d.b,), (jnp.cos(d.b),))


@transformation
def vmap_of_jvp(f, d):
    push = lambda *dots: jax.jvp(f.strided, example(d), dots)[1]
    return jax.vmap(push)(d.ws, d.bs, d.x[:2]), jax.vmap(push, (0, None, None))(d.ws, d.b, d.x[1])


@transformation
def linearize(f, d):
    y, push = jax.linearize(images(f.strided), *args(d))
    return y, push(*jax.tree.map(jnp.cos, args(d))), push(*jax.tree.map(jnp.sin, args(d)))


@transformation
def linearize_and_transpose(f, d):
    _, push = jax.linearize(images(f.strided), *args(d))
    return jax.linear_transpose(push, *args(d))(d.ct)


@transformation
def jacfwd_w(f, d):
    return jax.jacfwd(f.strided)(*example(d))


@transformation
def jacfwd_x_b(f, d):
    return jax.jacfwd(f.strided, (1, 2))(*example(d))


@transformation
def jacfwd_of_vmap(f, d):
    return jax.jacfwd(images(f.strided), 1)(*args(d))


@transformation
def jacfwd_of_jacrev(f, d):
    return jax.jacfwd(jax.jacrev(f.strided))(*example(d))


@transformation
def jacrev_of_jacfwd(f, d):
    return jax.jacrev(jax.jacfwd(f.strided, 2))(*example(d))


# ---------------------------------------------------------------- checkpoints, loops, branches


def deep(call, policy=None):
    """Checkpointed layers one after the other."""
    step = jax.checkpoint(images(call), policy=policy)
    return lambda us, cs, h: functools.reduce(lambda h, p: step(*p, h), zip(us, cs, strict=True), h)


@transformation
def checkpoint(f, d):
    return jax.grad(lambda *p: jnp.sum(jnp.sin(deep(f.same)(*p, d.h))), (0, 1))(d.us, d.cs)


@transformation
def checkpoint_with_policy(f, d):
    return jax.grad(lambda *p: jnp.sum(jnp.sin(deep(f.same, pc.dots_saveable)(*p, d.h))), (0, 1))(d.us, d.cs)


@transformation
def hvp_of_checkpoint(f, d):
    gradient = jax.grad(lambda *p: jnp.sum(jnp.sin(deep(f.same)(*p, d.h))), (0, 1))
    return jax.jvp(gradient, (d.us, d.cs), (d.us, d.cs))


def scanned(call):
    return lambda us, cs, h: lax.scan(lambda h, p: (jnp.sin(images(call)(*p, h)), None), h, (us, cs))[0]


@transformation
def scan_over_layers(f, d):
    return jax.value_and_grad(lambda *p: jnp.sum(scanned(f.same)(*p)), (0, 1, 2))(d.us, d.cs, d.h)


@transformation
def scan_over_data(f, d):
    total = lambda w, b: lax.scan(lambda s, x: (s + batch_loss(f.strided)(w, b, x), None), 0.0, d.xs)[0]
    return jax.value_and_grad(total, (0, 1))(d.w, d.b)


@transformation
def scan_under_vmap(f, d):
    return jax.vmap(scanned(f.same), (None, None, 0))(d.us, d.cs, jnp.stack([d.h, 2 * d.h]))


@transformation
def hvp_of_scan(f, d):
    gradient = jax.grad(lambda *p: jnp.sum(scanned(f.same)(*p, d.h)), (0, 1))
    return jax.jvp(gradient, (d.us, d.cs), (d.us, d.cs))[1]


@transformation
def cond(f, d):
    branch = lambda *at: lax.cond(jnp.sum(at[2]) > 0, images(f.strided), lambda *at: 2 * images(f.strided)(*at), *at)
    return [
        jax.value_and_grad(lambda *at: jnp.sum(jnp.sin(branch(*at))), (0, 1, 2))(d.w, d.b, s * d.x) for s in (1, -1)
    ]


@transformation
def cond_under_vmap(f, d):
    choose = lambda x: lax.cond(jnp.sum(x) > 0, f.strided, lambda *at: 2 * f.strided(*at), d.w, d.b, x)
    return jax.vmap(choose)(d.x)


@transformation
def fori_loop(f, d):
    return lax.fori_loop(0, 3, lambda i, h: jnp.sin(images(f.same)(d.us[i], d.cs[i], h)), d.h)


def looped(call, kind):
    def run(us, cs, h):
        step = lambda s: (s[0] + 1, jnp.sin(images(call)(us[s[0]], cs[s[0]], s[1])))
        return eqxi.while_loop(lambda s: s[0] < 3, step, (jnp.int32(0), h), max_steps=3, kind=kind)[1]

    return run


@transformation
def checkpointed_while_loop(f, d):
    return jax.value_and_grad(lambda *p: jnp.sum(looped(f.same, "checkpointed")(*p)), (0, 1, 2))(d.us, d.cs, d.h)


@transformation
def bounded_while_loop(f, d):
    return jax.value_and_grad(lambda *p: jnp.sum(looped(f.same, "bounded")(*p)), (0, 1, 2))(d.us, d.cs, d.h)


@transformation
def inside_custom_vjp(f, d):
    wrapped = jax.custom_vjp(lambda *at: jnp.sum(jnp.sin(f.strided(*at))))
    wrapped.defvjp(lambda *at: jax.vjp(loss(f.strided), *at), lambda pull, ct: pull(2 * ct))
    return jax.grad(wrapped, (0, 1, 2))(*example(d))


@transformation
def custom_root_of_gradients(f, d):
    """A transposed linear map inside another transformation."""
    pull = lambda *at: jax.vjp(f.strided, *at)[1](d.ct[0])
    return jax.vjp(pull, *example(d))[1](jax.tree.map(jnp.cos, example(d)))


# ---------------------------------------------------------------- many devices


def mesh_of(count, **kwargs):
    return jax.make_mesh((count,), ("d",), **kwargs)


def sharded_loss(f, check_vma):
    return jax.shard_map(
        lambda *at: lax.psum(batch_loss(f.strided)(*at), "d"),
        mesh=mesh_of(3, axis_types=(AxisType.Auto,)),
        in_specs=(P(), P(), P("d")),
        out_specs=P(),
        check_vma=check_vma,
    )


@transformation
def shard_map_of_vmap(f, d):
    mesh = mesh_of(3, axis_types=(AxisType.Auto,))
    return jax.shard_map(images(f.strided), mesh=mesh, in_specs=(P(), P(), P("d")), out_specs=P("d"))(*args(d))


@transformation
def grad_of_shard_map(f, d):
    return [jax.grad(sharded_loss(f, True), i)(*args(d)) for i in (0, 1, 2, (0, 1, 2))]


@transformation
def grad_of_shard_map_without_check_vma(f, d):
    return [jax.grad(sharded_loss(f, False), i)(*args(d)) for i in (0, 1, 2, (0, 1, 2))]


@transformation
def grad_inside_shard_map(f, d):
    mesh = mesh_of(3, axis_types=(AxisType.Auto,))
    gradient = jax.grad(batch_loss(f.strided), (0, 1, 2))
    specs = (P(), P(), P("d"))
    return jax.shard_map(gradient, mesh=mesh, in_specs=specs, out_specs=specs)(*args(d))


@transformation
def hvp_of_shard_map(f, d):
    gradient = jax.grad(sharded_loss(f, True), (0, 1, 2))
    return jax.jvp(gradient, args(d), jax.tree.map(jnp.cos, args(d)))[1]


@transformation
def jvp_inside_shard_map(f, d):
    def push(w, b, x):
        return [jax.jvp(lambda t, i=i: images(f.strided)(*[*(w, b, x)[:i], t, *(w, b, x)[i + 1 :]]), (t,), (t,))[1]
                for i, t in enumerate((w, b, x))]  # fmt: skip

    mesh = mesh_of(3, axis_types=(AxisType.Auto,))
    return jax.shard_map(push, mesh=mesh, in_specs=(P(), P(), P("d")), out_specs=P("d"))(*args(d))


# ---------------------------------------------------------------- the tests

MAIN = [Problem("Conv2d", "silu"), Problem("ConvTranspose2d", "relu"), Problem("conv", "silu")]
REST = [
    p for kind in (*LAYERS, *FUNCTIONS) for act in (None, "silu", "relu") for groups in (1, 2)
    if (p := Problem(kind, act, groups)) not in MAIN
]  # fmt: skip


def agree(case: Case, problem: Problem, dtype: Any = "float64") -> None:
    with jax.enable_x64(dtype == "float64"):
        found, expected = jax.jit(lambda d: (case(problem.ours, d), case(problem.stock, d)))(data(problem, dtype))
        assert_close(found, expected)


def matrix() -> Iterator[Any]:
    """In CI all transformations of one problem, and every third of each of the other main ones."""
    for problem in [*MAIN, *REST]:
        for i, name in enumerate(CASES):
            often = problem == MAIN[0] or (problem in MAIN and i % 3 == MAIN.index(problem))
            yield pytest.param(problem, name, id=f"{problem}-{name}", marks=[] if often else [pytest.mark.extended])


@pytest.mark.parametrize(("problem", "name"), list(matrix()))
def test_transformation(problem, name):
    agree(CASES[name], problem)


@pytest.mark.parametrize("case", [forward_pass, grad_of_vmap, per_example_gradients, ensemble_gradients])
@pytest.mark.parametrize("problem", MAIN, ids=str)
def test_in_float32(problem, case):
    agree(case, problem, "float32")


@pytest.mark.parametrize("problem", MAIN, ids=str)
def test_eager(problem):
    """Without an outer jit, and with jit disabled."""
    d = data(problem, "float32")
    expected = grad_of_vmap(problem.stock, d)
    assert_close(grad_of_vmap(problem.ours, d), expected)
    with jax.disable_jit():
        assert_close(grad_of_vmap(problem.ours, d), expected)
        assert_close(forward_pass(problem.ours, d), forward_pass(problem.stock, d))


LINEAR = [Problem(kind, None, groups) for kinds, groups in ((LAYERS, 1), (FUNCTIONS, 2)) for kind in kinds]


@pytest.mark.parametrize("operand", [0, 1, 2], ids=["w", "b", "x"])
@pytest.mark.parametrize("problem", LINEAR, ids=str)
def test_linear_transpose(problem, operand):
    """Without activation in any one operand, a bias being there or not."""

    def transposed(f, d):
        one = lambda t: images(f.strided)(*[*args(d)[:operand], t, *args(d)[operand + 1 :]])
        return jax.linear_transpose(one, args(d)[operand])(d.ct)

    d = data(problem, "float32")
    if operand == 2:  # x + b is not linear for equinox's additions; here b is ignored, as in the derivative
        expected = jax.vjp(lambda x: images(problem.stock.strided)(d.w, d.b, x), d.x)[1](d.ct)
    else:
        expected = jax.vjp(lambda t: images(problem.stock.strided)(*[*args(d)[:operand], t, *args(d)[operand + 1 :]]),
                           args(d)[operand])[1](d.ct)  # fmt: skip
    assert_close(transposed(problem.ours, d), expected)


@pytest.mark.parametrize("problem", LINEAR, ids=str)
def test_linear_transpose_in_two_factors_is_refused(problem):
    d = data(problem, "float32")
    with pytest.raises(NotImplementedError, match="not jointly linear in"):
        jax.linear_transpose(lambda w, x: problem.ours.strided(w, d.b, x), d.w, d.x[0])(d.ct[0])


def test_linear_transpose_through_an_activation_is_refused():
    problem = Problem("Conv2d", "silu")
    d = data(problem, "float32")
    with pytest.raises(NotImplementedError, match="activation 'silu' is not linear"):
        jax.linear_transpose(lambda x: problem.ours.strided(d.w, d.b, x), d.x[0])(d.ct[0])


@pytest.mark.parametrize("case", [vmap_x, grad_of_vmap, hvp_forward_over_reverse, per_example_gradients])
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
@pytest.mark.parametrize("problem", MAIN, ids=str)
def test_mesh(problem, axis_type, case):
    mesh = mesh_of(3, axis_types=(axis_type,))
    specs = {"x": P("d"), "ct": P("d")}

    def place(d):
        return Data(
            *(jax.device_put(np.asarray(t), NamedSharding(mesh, specs.get(n, P()))) for n, t in d._asdict().items())
        )

    d = data(problem, "float32")
    expected = jax.jit(lambda d: case(problem.stock, d))(d)
    with jax.set_mesh(mesh):
        assert_close(jax.jit(lambda d: case(problem.ours, d))(place(d)), expected)


@pytest.mark.parametrize("operand", [0, 1, 2], ids=["w", "b", "x"])
@pytest.mark.parametrize("problem", [p for p in MAIN if p.kind in LAYERS], ids=str)
def test_jvp_on_an_explicit_mesh(problem, operand):
    """Of one operand alone: the tangent has the sharding of the result, also where only the replicated bias moves."""
    mesh = mesh_of(3, axis_types=(AxisType.Explicit,))

    def push(f, *at):
        one = lambda t: images(f.strided)(*[*at[:operand], t, *at[operand + 1 :]])
        return jax.jvp(one, (at[operand],), (at[operand],))

    d = data(problem, "float32")
    expected = push(problem.stock, *args(d))
    with jax.set_mesh(mesh):
        specs = (P(), P(), P("d"))
        placed = [jax.device_put(np.asarray(t), NamedSharding(mesh, s)) for t, s in zip(args(d), specs, strict=True)]
        y, dot = jax.jit(functools.partial(push, problem.ours))(*placed)
    assert y.sharding.spec == dot.sharding.spec
    assert y.sharding.spec[0] == "d"
    assert_close((y, dot), expected)


@pytest.mark.parametrize("problem", MAIN, ids=str)
def test_pmap(problem):
    d = data(problem, "float32")
    gradient = lambda f: jax.grad(lambda *at: lax.pmean(batch_loss(f.strided)(*at), "d"), (0, 1, 2))
    run = lambda f: jax.pmap(gradient(f), axis_name="d", in_axes=(None, None, 0))(d.w, d.b, d.xs)
    assert_close(run(problem.ours), run(problem.stock))


@pytest.mark.parametrize("platforms", [("cpu",), ("cpu", "cuda")], ids="+".join)
@pytest.mark.parametrize("batch", ["3", "n"], ids=["static", "symbolic"])
@pytest.mark.parametrize("problem", MAIN, ids=str)
def test_export(problem, batch, platforms):
    d = data(problem, "float32")
    x = jax.ShapeDtypeStruct(jax.export.symbolic_shape(f"{batch}, {', '.join(map(str, d.x.shape[1:]))}"), d.x.dtype)
    ours = jax.value_and_grad(batch_loss(problem.ours.strided), (0, 1, 2))
    exported = jax.export.export(jax.jit(ours), platforms=platforms)(d.w, d.b, x)
    assert exported.platforms == platforms
    assert_close(exported.call(*args(d)), value_and_grad_of_vmap(problem.stock, d))


def test_export_for_several_platforms_takes_the_program_of_each():
    """What is best on one is not handed to another; what is not known by itself gets stock's program."""
    layer = pc.ConvTranspose2d(64, 32, 2, 2, key=jax.random.key(0))
    x = jax.ShapeDtypeStruct((8, 64, 16, 16), jnp.float32)
    program = lambda *platforms: jax.export.export(jax.jit(jax.vmap(layer)), platforms=platforms)(x).mlir_module()
    assert "convolution" not in program("cpu")  # one matrix product
    assert program("cuda", "cpu").count("stablehlo.convolution(") == 1
    for platforms in (("tpu",), ("tpu", "rocm")):
        stock = program(*platforms)
        assert stock.count("stablehlo.convolution(") == len(platforms)
        assert "stablehlo.reverse" not in stock


@pytest.mark.parametrize(
    "layer",
    [
        lambda nn, key: nn.Conv2d(4, 8, 4, stride=4, key=key),
        lambda nn, key: nn.Conv2d(4, 8, 3, dilation=2, padding=1, key=key),
        lambda nn, key: nn.ConvTranspose2d(4, 8, 3, stride=2, padding=2, key=key),
    ],
)
def test_export_with_symbolic_images(layer):
    stock, ours = (jax.vmap(layer(nn, jax.random.key(0))) for nn in (eqx.nn, pc))
    shape = jax.export.symbolic_shape("n, 4, h, w")
    exported = jax.export.export(jax.jit(ours))(jax.ShapeDtypeStruct(shape, jnp.float32))
    for size in ((2, 4, 9, 8), (1, 4, 16, 17)):
        x = jax.random.normal(jax.random.key(1), size)
        assert_close(exported.call(x), stock(x))


@pytest.mark.parametrize("implementation", ["mosaic", ("mosaic", "interpret")])
def test_export_of_a_kernel_with_a_symbolic_batch_is_refused(implementation):
    x = jax.ShapeDtypeStruct(jax.export.symbolic_shape("n, 8, 6, 6"), jnp.bfloat16)
    w = jax.ShapeDtypeStruct((8, 8, 3, 3), jnp.bfloat16)
    f = jax.jit(functools.partial(pc.conv, implementation=implementation))
    with pytest.raises(pc.UnsupportedError, match="sizes that are numbers"):
        jax.export.export(f, platforms=["cuda"])(x, w)


@pytest.mark.parametrize("kind", [*LAYERS, *FUNCTIONS])
def test_float0(kind):
    """Integer images: their tangents have no bits."""
    problem = Problem(kind, None)
    d = data(problem, "float32")
    x = jnp.round(3 * d.x).astype(jnp.int32)
    geometry = {"stride": 2, "compute_dtype": jnp.float32}

    def ours(w, b, x):
        if kind in FUNCTIONS:
            return jnp.sum(jnp.sin(getattr(pc, kind)(x, w, b, **geometry)))
        return jnp.sum(jnp.sin(jax.vmap(layer(getattr(pc, kind), w, b, **geometry))(x)))

    dw, db, dx = jax.grad(ours, (0, 1, 2), allow_int=True)(d.w, d.b, x)
    assert dx.dtype == jax.dtypes.float0
    expected = jax.grad(ours, (0, 1))(d.w, d.b, x.astype(jnp.float32))
    assert_close((dw, db), expected)
    zero = np.zeros(x.shape, jax.dtypes.float0)
    assert_close(
        jax.jvp(ours, (d.w, d.b, x), (d.w, d.b, zero))[1],
        jax.jvp(lambda w, b: ours(w, b, x.astype(jnp.float32)), (d.w, d.b), (d.w, d.b))[1],
    )


@pytest.mark.parametrize("problem", MAIN, ids=str)
def test_checkify(problem):
    d = data(problem, "float32")
    checked = checkify.checkify(jax.grad(batch_loss(problem.ours.strided)), errors=checkify.float_checks)
    error, gradient = jax.jit(checked)(*args(d))
    error.throw()
    assert_close(gradient, jax.grad(batch_loss(problem.stock.strided))(*args(d)))
    error, _ = jax.jit(checked)(d.w, d.b, d.x.at[0].set(jnp.nan))
    with pytest.raises(checkify.JaxRuntimeError, match="nan"):
        error.throw()


@pytest.mark.parametrize("use_bias", [True, False])
def test_checkify_names_the_convolution(use_bias):
    """As it does lax's: not only whatever reads a NaN later."""
    layer = pc.Conv2d(4, 8, 3, use_bias=use_bias, key=jax.random.key(0))
    checked = jax.jit(checkify.checkify(layer, errors=checkify.float_checks))
    x = jnp.ones((4, 8, 9))
    checked(x)[0].throw()
    error, _ = checked(x.at[0, 0, 0].set(jnp.nan))
    assert f"nan generated by primitive: conv_{'affine' if use_bias else 'fprop'}" in error.get()


@pytest.mark.parametrize("problem", MAIN, ids=str)
def test_debug_nans(problem):
    d = data(problem, "float32")
    gradient = jax.jit(jax.grad(batch_loss(problem.ours.strided)))
    with jax.debug_nans(True):
        assert_close(gradient(*args(d)), jax.grad(batch_loss(problem.stock.strided))(*args(d)))
        with pytest.raises(FloatingPointError, match="nan"):
            gradient(d.w, d.b, d.x.at[0].set(jnp.nan))


@pytest.mark.parametrize(
    "problem",
    [Problem(k, act, g) for kinds, g in ((LAYERS, 2), (FUNCTIONS, 1)) for k in kinds for act in (None, "silu")],
    ids=str,
)
def test_jet(problem):
    """Taylor series along a curve x(t), w(t), b(t). JAX has none of its own jax.nn.relu."""

    def series(f, d):
        along = jax.tree.map(lambda t: [jnp.cos(t), jnp.sin(t), t], args(d))
        return jet.jet(images(f.strided), args(d), along)

    agree(series, problem)


@pytest.mark.parametrize("kind", LAYERS)
def test_filter_transformations(kind):
    """Of equinox, on the layer as a pytree."""
    problem = Problem(kind, "silu")
    d = data(problem, "float32")
    ours = layer(getattr(pc, kind), d.w, d.b, activation="silu", **problem.geometries["strided"])
    stock = layer(getattr(eqx.nn, kind), d.w, d.b, **problem.geometries["strided"])

    def total(call, x):
        return jnp.sum(jnp.sin(jax.vmap(call)(x)))

    found = eqx.filter_jit(eqx.filter_value_and_grad(total))(ours, d.x)
    expected = eqx.filter_value_and_grad(lambda m, x: total(lambda x: jax.nn.silu(m(x)), x))(stock, d.x)
    assert_close(jax.tree.leaves(found), jax.tree.leaves(expected))
    assert isinstance(found[1], getattr(pc, kind))
    ensemble = eqx.filter_vmap(lambda m, x: m(x), in_axes=(eqx.if_array(0), None))
    stacked = jax.tree.map(lambda t: jnp.stack([t, 2 * t]) if eqx.is_array(t) else t, ours)
    doubled = jax.tree.map(lambda t: 2 * t if eqx.is_array(t) else t, ours)
    assert_close(ensemble(stacked, d.x[0]), jnp.stack([ours(d.x[0]), doubled(d.x[0])]))
