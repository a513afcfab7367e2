"""Phases and taps are the definition, rearranged: thousands of random geometries against it."""

import random

import jax
import jax.numpy as jnp
import pytest

from pallas_conv.kernels import geometry, scalars
from pallas_conv.kernels.geometry import ConvAxis
from tests.kernels import cases
from tests.kernels.geometries import definition, pairs
from workloads.ladder import dense as ladder


def lines(seed: int, count: int) -> list[ConvAxis]:
    """Convolutions, transposed ones, and what is both; paddings of either sign, empty outputs among them."""
    rng, found = random.Random(seed), []
    for _ in range(count):
        size, kernel, stride = rng.randint(1, 12), rng.randint(1, 6), rng.randint(1, 5)
        base, dilation, low = rng.choice((1, 1, rng.randint(1, 5))), rng.randint(1, 5), rng.randint(-3, 8)
        found.append(ConvAxis(size, rng.randint(0, 14), kernel, stride, base, dilation, low, rng.random() < 0.3))
    return found


SEEDS = pytest.mark.parametrize("seed", range(4))


@SEEDS
def test_phases_and_taps_are_the_definition(seed):
    for line in lines(seed, 1000):
        assert sorted(pairs(line.dim())) == sorted(definition(line)), line


@SEEDS
def test_transposing_swaps_input_and_output(seed):
    for line in lines(seed, 1000):
        swapped = sorted((j, o, t) for o, j, t in pairs(line.transpose().dim()))
        assert swapped == sorted(definition(line)), line
        assert line.transpose().transpose() == line


@SEEDS
def test_every_tap_belongs_to_one_phase_at_most(seed):
    for line in lines(seed, 1000):
        dim = line.dim()
        assert len(set(dim.order)) == len(dim.order) == sum(dim.count) <= line.kernel, line
        assert len(dim.count) == len(dim.offset) == dim.out_stride, line


@SEEDS
def test_a_span_holds_every_tap_that_reads_the_input(seed):
    rng = random.Random(seed)
    for line in lines(seed, 1000):
        dim = line.dim()
        for p in range(dim.out_stride):
            lo = rng.randint(0, 6)
            hi = lo + rng.randint(0, 6)
            reads = lambda i, q, p=p, dim=dim: 0 <= q * dim.in_stride + dim.offset[p] + i * dim.tap_stride < dim.in_size
            used = {i for i in range(dim.count[p]) if any(reads(i, q) for q in range(lo, hi + 1))}
            first, last = dim.span(p, lo, hi)
            assert used <= set(range(first, last)) <= set(range(dim.count[p])), (line, p, lo, hi)
            assert dim.in_stride > 1 or len(used) == last - first, (line, p, lo, hi)  # and nothing else


@SEEDS
def test_a_span_of_traced_numbers_is_the_same(seed):
    """A kernel's arithmetic on traced numbers gives the spans that Python gives, for intervals that begin in the output."""
    rng = random.Random(seed)
    for line in lines(seed, 60):
        dim = line.dim()
        phases = [rng.randrange(dim.out_stride) for _ in range(16)]
        low = [rng.randint(0, dim.rows) for _ in phases]
        high = [first + rng.randint(0, 9) for first in low]
        counts, offsets = ([of_phase[p] for p in phases] for of_phase in (dim.count, dim.offset))
        met = jax.vmap(lambda *at, dim=dim: dim.taps_met(*at, jnp.clip, scalars.floor_div))
        first, last = met(*(jnp.array(values, jnp.int32) for values in (counts, offsets, low, high)))
        found = list(zip(first.tolist(), last.tolist(), strict=True))
        assert found == [dim.span(*at) for at in zip(phases, low, high, strict=True)], line


@SEEDS
def test_columns_are_what_the_taps_read(seed):
    for line in lines(seed, 1000):
        dim = line.dim()
        if dim.out_stride > 1:
            with pytest.raises(ValueError, match="output phases"):
                dim.im2col()
            continue
        found = sorted(
            (o, j, dim.order[i])
            for i, (first, last, stride) in enumerate(dim.columns())
            for o, j in enumerate(range(first, last, stride))
            if 0 <= j < dim.in_size
        )
        assert found == sorted(definition(line)), line
        assert sorted(pairs(dim.im2col())) == [(o, o, 0) for o in range(dim.out_size)]


@SEEDS
def test_a_box_holds_what_its_taps_read_whole_strides_apart(seed):
    for line in lines(seed, 1000):
        dim = line.dim()
        for p, count in enumerate(dim.count):
            start = lambda i, p=p, dim=dim: dim.offset[p] + i * dim.tap_stride
            for i in range(count):
                box, rows = dim.box_of_tap(i)
                assert start(i) == start(box) + rows * dim.in_stride
            remainders = {start(i) % dim.in_stride for i in range(count)}
            assert len(remainders) == min(dim.residues, count), line


@SEEDS
def test_shifts_are_where_the_taps_meet(seed):
    for line in lines(seed, 1000):
        dim = line.dim()
        if dim.in_stride > 1:
            with pytest.raises(ValueError, match="stride"):
                dim.col2im()
            continue
        found = sorted(
            (o, q + shift, dim.order[tap])
            for p in range(dim.out_stride)
            for tap, shift in dim.shifts(p)
            for q, o in enumerate(range(p, dim.out_size, dim.out_stride))
            if 0 <= q + shift < dim.in_size
        )
        assert found == sorted(definition(line)), line
        assert sorted(pairs(dim.col2im())) == [(j, j, 0) for j in range(dim.in_size)]


@pytest.mark.parametrize("case", ladder.CASES, ids=str)
def test_the_dims_of_a_product_are_its_geometry(case):
    spec = case.product.spec
    for i, dim in enumerate(geometry.dims(case.product)):
        (low, _), kernel = spec.padding[i], spec.kernel_spatial[i]
        wanted = {
            (o, j, t)
            for o in range(spec.out_spatial[i])
            for j in range(spec.in_spatial[i])
            for t in range(kernel)
            if j * spec.input_dilation[i] == o * spec.strides[i] + t * spec.kernel_dilation[i] - low
        }
        found = {(o, j, t) if case.product.role == "fprop" else (j, o, t) for o, j, t in pairs(dim)}
        assert found == wanted


def test_a_weight_gradient_pairs_what_the_forward_product_does():
    sizes = (2, (8, 16), (9, 4), (3, 2), (2, 1), 1)
    assert geometry.dims(cases.product("wgrad", *sizes)) == geometry.dims(cases.product("fprop", *sizes))
    with pytest.raises(ValueError, match="role"):
        geometry.dims(cases.product("bwd", *sizes))
