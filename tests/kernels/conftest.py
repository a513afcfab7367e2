"""Replacements that several tests of kernels share: for the interpreter's copies, and for the measurements of chips."""

import collections
import functools
import itertools
import math
import threading

import jax
import pytest

from pallas_conv.kernels import chips, mosaic
from pallas_conv.kernels.depthwise import fragments
from pallas_conv.kernels.depthwise.plan import CHANNELS, PIXELS


@pytest.fixture
def dropped_axes(monkeypatch):
    """Drop axes as Mosaic does for TMA: one of which array and box have one goes, with its index, whatever that is."""
    load, store = mosaic.copy_gmem_to_smem, mosaic.copy_smem_to_gmem

    def seen(ref):
        (indexer,) = ref.transforms
        extents = [i.size if hasattr(i, "start") else 1 for i in indexer.indices]
        first = lambda i: mosaic.ds(0, 1) if hasattr(i, "start") else 0
        axes = zip(indexer.indices, extents, ref.ref.shape, strict=True)
        return ref.ref.at[tuple(first(i) if extent == size == 1 else i for i, extent, size in axes)]

    monkeypatch.setattr(mosaic, "copy_gmem_to_smem", lambda source, *to, **how: load(seen(source), *to, **how))
    monkeypatch.setattr(mosaic, "copy_smem_to_gmem", lambda source, target: store(source, seen(target)))


@pytest.fixture
def count(monkeypatch, dropped_axes) -> collections.Counter:
    """Multiply-adds and loaded bytes, of every trip of every loop, from the operands that kernels hand to Mosaic."""
    count: collections.Counter = collections.Counter()
    multiply, copy, one_at_a_time = mosaic.wgmma, mosaic.copy_gmem_to_smem, threading.Lock()

    def now(name, amount):
        with one_at_a_time:  # the interpreter calls from several threads
            count[name] += amount

    def add(name, amount):
        jax.debug.callback(functools.partial(now, name, amount))

    def counting_wgmma(acc, a, b):
        (rows, depth), columns = a.shape, b.shape[1]
        add("macs", rows * depth * columns)
        multiply(acc, a, b)

    def counting_copy(source, target, **how):
        blocks = 2 if how.get("collective_axes") else 1  # which load a part each
        add("bytes", math.prod(target.shape) * target.dtype.itemsize // blocks)
        copy(source, target, **how)

    monkeypatch.setattr(mosaic, "wgmma", counting_wgmma)
    monkeypatch.setattr(mosaic, "copy_gmem_to_smem", counting_copy)
    return count


@pytest.fixture
def counted_products(count, monkeypatch) -> collections.Counter:
    """`count`, with the depthwise kernel's products of fragments and taps: for each channel of a group, a multiply-add."""
    one_at_a_time = threading.Lock()

    def now(products):
        with one_at_a_time:  # the interpreter calls from several threads
            count["macs"] += products * PIXELS * CHANNELS

    def counting(multiply):
        def counted(self, acc, xs, others):
            jax.debug.callback(functools.partial(now, len(xs)))
            return multiply(self, acc, xs, others)

        return counted

    engines = fragments.TensorCores, fragments.MultiplyAdds
    for engine, name in itertools.product(engines, ("multiply", "sum_pixels")):
        monkeypatch.setattr(engine, name, counting(getattr(engine, name)))
    return count


@pytest.fixture
def measured_chips(tmp_path, monkeypatch):
    """Takes the place of the shipped constants: the nominal chip, the plausible ones, and these measured devices."""

    def put(*measured):
        chips.write(chips.load(chips.CHIPS)._replace(measured=measured), tmp_path / "chips.json")
        monkeypatch.setattr(chips, "CHIPS", tmp_path / "chips.json")
        chips.chips.cache_clear()

    yield put
    monkeypatch.undo()
    chips.chips.cache_clear()
