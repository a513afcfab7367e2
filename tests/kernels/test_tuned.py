"""The table of tuned tiles: what is written is read, what is not legal is refused by row, what matches is chosen."""

import dataclasses
import json

import pytest

from pallas_conv import strict
from pallas_conv.kernels import choice, families, serve, tuned
from pallas_conv.kernels.dense.plan import Config
from pallas_conv.kernels.gpu import HOPPER, Gpu
from tests.kernels import cases

PRODUCT = cases.product("fprop", 2, (64, 64), (9, 9), 3)
H100, H200 = "NVIDIA H100 80GB HBM3", "NVIDIA H200"
FAMILY = families.serving(PRODUCT)
ROW = tuned.Row(H100, 132, FAMILY.name, PRODUCT, Config((1, 8, 8), 64, stages=3))


def chosen(product, num_sms, kind=None):
    return serve.choose(product, Gpu(num_sms, kind))


def modelled(product, num_sms, kind=None):
    """The configuration that is chosen without a table."""
    return choice.best(FAMILY, FAMILY.problem(product), Gpu(num_sms, kind))


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Replaces the shipped table by rows of a test."""

    def replace(*rows):
        path = tmp_path / "tiles.json"
        tuned.write_tiles(rows, path)
        monkeypatch.setattr(tuned, "TILES", path)
        tuned._by_device.cache_clear()
        serve._chosen.cache_clear()

    yield replace
    monkeypatch.undo()
    tuned._by_device.cache_clear()
    serve._chosen.cache_clear()


def test_the_shipped_table_is_valid():
    assert all(isinstance(row, tuned.Row) for row in tuned.load_tiles(tuned.TILES))


def test_what_is_written_is_read(tmp_path):
    other = ROW._replace(product=dataclasses.replace(PRODUCT, batch=3))
    better = ROW._replace(config=Config((1, 8, 8), 32))
    tuned.write_tiles([ROW, other, better], tmp_path / "tiles.json")
    assert set(tuned.load_tiles(tmp_path / "tiles.json")) == {other, better}
    tuned.write_tiles([], tmp_path / "tiles.json")
    assert tuned.load_tiles(tmp_path / "tiles.json") == ()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"speed": 2}, r"row 1 must have the fields of Row: missing \[\], unknown \['speed'\]"),
        ({"family": "another"}, r"row 1: there is no family of kernels named 'another'"),
        ({"num_sms": "132"}, r"row 1\.num_sms must be int"),
        ({"config": {}}, r"row 1\.config must have the fields of Config"),
        ({"config": Config((1, 8, 4)).to_json()}, r"row 1: the configuration is not legal: .*tile_pixels"),
        ({"product": dataclasses.replace(PRODUCT, role="wgrad").to_json()}, r"row 1: no kernel serves the product"),
        ({"num_sms": 1, "config": Config((1, 8, 8), 64, cluster=2).to_json()}, r"row 1: .*gpu\.num_sms=1"),
        ({"product": PRODUCT.to_json()}, "row 0: another row is of the same product and device"),
    ],
)
def test_what_is_no_row_is_refused_by_name(tmp_path, changes, words):
    good = strict.to_json(ROW)
    other = good | {"product": dataclasses.replace(PRODUCT, batch=3).to_json()}
    (tmp_path / "tiles.json").write_text(json.dumps([good, other | changes]))
    with pytest.raises(ValueError, match=words):
        tuned.load_tiles(tmp_path / "tiles.json")


def test_a_tuned_tile_goes_before_the_models(table):
    table(ROW)
    assert chosen(PRODUCT, 132) == ROW.config != modelled(PRODUCT, 132)
    assert chosen(PRODUCT, 132, H200) == ROW.config  # as many SMs
    assert chosen(PRODUCT, 114) == modelled(PRODUCT, 114) != ROW.config
    assert chosen(PRODUCT, 114, H100) == ROW.config
    other = dataclasses.replace(PRODUCT, batch=3)
    assert chosen(other, 132) == modelled(other, 132)


def test_devices_of_another_generation_are_not_alike(table):
    table(ROW, ROW._replace(device_kind="NVIDIA B200", config=Config((1, 8, 8), 32)))
    another = Gpu(132, generation=dataclasses.replace(HOPPER, capability=(10, 0)))
    assert chosen(PRODUCT, 132) == ROW.config
    assert tuned.look_up(FAMILY, PRODUCT, another) == Config((1, 8, 8), 32)
    table(ROW)
    assert tuned.look_up(FAMILY, PRODUCT, another) is None


def test_of_a_device_that_was_tuned_only_its_own_rows_count(table):
    other = dataclasses.replace(PRODUCT, batch=3)
    own = ROW._replace(device_kind=H200, config=Config((1, 8, 8), 32))
    table(ROW, ROW._replace(product=other), own)
    assert chosen(other, 132, H100) == ROW.config
    assert chosen(other, 132, H200) == modelled(other, 132, H200) != ROW.config
    assert chosen(PRODUCT, 132, H100) == ROW.config
    assert chosen(PRODUCT, 132, H200) == own.config


def test_a_device_that_was_not_tuned_takes_the_largest_table_of_those_alike(table):
    other = dataclasses.replace(PRODUCT, batch=3)
    config = Config((1, 8, 8), 32)
    table(ROW, *(ROW._replace(device_kind=H200, product=it, config=config) for it in (PRODUCT, other)))
    assert chosen(PRODUCT, 132) == chosen(PRODUCT, 132, "NVIDIA H800") == config
    assert chosen(PRODUCT, 132, H100) == ROW.config
