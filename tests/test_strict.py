"""JSON forms of products and configurations: they come back as they were, and anything else is refused by name."""

import json

import pytest

from pallas_conv.kernels.dense.plan import FORMER_NAMES, Config
from pallas_conv.spec import Product
from tests.kernels import cases

PRODUCTS = {
    "plain": cases.product("fprop", 2, (64, 32), (9, 9), 3),
    "all_fields": cases.product(
        "fprop", 2, (64, 32), (9, 8, 7), (3, 2, 1), (1, 2, 1), ((0, 1), (-1, 2), (0, 0)), dtype="float32", models=3,
        precision="default", residual=True, activation="gelu", outputs=("y", "z"),
    ),
}  # fmt: skip
CONFIGS = [Config((1, 8, 8)), Config((1, 1, 16, 8), 96, 32, 2, True, False, 1, True, 3, 1, 2, 2, 4, 2, False)]


@pytest.mark.parametrize("value", [*PRODUCTS.values(), *CONFIGS], ids=lambda value: type(value).__name__)
def test_it_comes_back_as_it_was(value):
    found = type(value).from_json(json.loads(json.dumps(value.to_json())))
    assert found == value
    assert hash(found) == hash(value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch": 2.0}, r"row 3\.batch must be int, not 2\.0"),
        ({"batch": True}, r"row 3\.batch must be int, not True"),
        ({"bias": 1}, r"row 3\.bias must be bool, not 1"),
        ({"models": "3"}, r"row 3\.models must be int, not '3'"),
        ({"outputs": "y"}, r"row 3\.outputs must be a JSON array"),
        ({"outputs": ["dw"]}, r"outputs=\('dw',\) of fprop must be some of"),
        ({"role": "conv"}, r"role='conv' must be one of fprop, dgrad"),
        ({"spec": None}, r"row 3\.spec must be a JSON object"),
        ({"colour": "red"}, r"row 3 must have the fields of Product: missing \[\], unknown \['colour'\]"),
    ],
)
def test_what_is_no_product_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        Product.from_json({**PRODUCTS["plain"].to_json(), **changes}, "row 3")


def test_what_is_missing_or_misshapen_inside_is_named():
    form = PRODUCTS["plain"].to_json()
    del form["spec"]["groups"]
    with pytest.raises(ValueError, match=r"product\.spec must have the fields of ConvSpec: missing \['groups'\]"):
        Product.from_json(form)
    form["spec"] |= {"groups": 1, "padding": [[0, 1], [0, 1, 2]]}
    with pytest.raises(ValueError, match=r"product\.spec\.padding\[1\] must have 2 items"):
        Product.from_json(form)


def test_what_is_no_configuration_is_refused():
    with pytest.raises(ValueError, match=r"config must have the fields of Config: missing \['tile_pixels'\]"):
        Config.from_json({key: value for key, value in CONFIGS[0].to_json().items() if key != "tile_pixels"})
    with pytest.raises(ValueError, match=r"config\.tile_pixels\[1\] must be int, not None"):
        Config.from_json({**CONFIGS[0].to_json(), "tile_pixels": [1, None]})


@pytest.mark.parametrize(("former", "present"), FORMER_NAMES.items())
def test_a_former_name_is_read_unless_the_present_one_is_there_too(former, present):
    form = CONFIGS[1].to_json()
    old = {former if name == present else name: value for name, value in form.items()}
    assert Config.from_json(old) == CONFIGS[1]
    with pytest.raises(ValueError, match=rf"row 3 has both '{former}' and '{present}'"):
        Config.from_json(form | {former: form[present]}, "row 3")
