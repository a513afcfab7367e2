"""Replacements that several tests of kernels share: for the interpreter's copies, and for the measurements of chips."""

import pytest

from pallas_conv.kernels import chips, mosaic


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
def measured_chips(tmp_path, monkeypatch):
    """Takes the place of the shipped constants: the nominal chip, the plausible ones, and these measured devices."""

    def put(*measured):
        chips.write(chips.load(chips.CHIPS)._replace(measured=measured), tmp_path / "chips.json")
        monkeypatch.setattr(chips, "CHIPS", tmp_path / "chips.json")
        chips.chips.cache_clear()

    yield put
    monkeypatch.undo()
    chips.chips.cache_clear()
