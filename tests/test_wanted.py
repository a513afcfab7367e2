"""The list of wanted products is read strictly, and says where it is wrong."""

import json

import pytest

from pallas_conv import wanted


def altered(tmp_path, change):
    data = json.loads(wanted.FILE.read_text())
    change(data)
    (tmp_path / "wanted.json").write_text(json.dumps(data))
    return tmp_path / "wanted.json"


def test_rows_become_products():
    found = wanted.wanted()
    first = found.suite[0]
    assert first.name == "resnet50_stem/f"
    assert (first.product.role, first.product.in_channels, first.product.spec.in_spatial) == ("fprop", 3, (224, 224))
    assert found.networks[0].network == "resnet18"


def test_a_row_with_another_field_is_refused(tmp_path):
    file = altered(tmp_path, lambda data: data["networks"][3].pop("count"))
    with pytest.raises(ValueError, match=r"wanted\.json\.networks\[3\].*missing \['count'\]"):
        wanted.wanted(file)


def test_a_product_of_another_type_is_refused(tmp_path):
    file = altered(tmp_path, lambda data: data["suite"][1]["product"].update(batch="many"))
    with pytest.raises(ValueError, match=r"wanted\.json\.suite\[1\]\.product\.batch must be int, not 'many'"):
        wanted.wanted(file)
