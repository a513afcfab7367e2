"""The file of wanted products is the one that the command finds, for networks of published size."""

import pytest

from bench import wanted
from pallas_conv.kernels import families
from pallas_conv.wanted import FILE, Wanted
from pallas_conv.wanted import wanted as committed
from workloads.models import NETWORKS
from workloads.models.common import SMALL


def test_the_committed_products_of_the_suite_are_those_found():
    assert committed().suite == wanted.suite()


@pytest.mark.parametrize("name", NETWORKS)
def test_the_committed_products_of_a_network_are_those_found(name):
    assert [use for use in committed().networks if use.network == name] == wanted.uses(NETWORKS[name])


def test_the_committed_file_is_as_the_command_writes_it():
    assert FILE.read_text() == wanted.text(committed())


def test_the_command_writes_what_it_finds(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(wanted, "NETWORKS", {"dcgan": NETWORKS["dcgan"]})
    assert wanted.main([f"--out={tmp_path / 'wanted.json'}"]) == 0
    of_one = tuple(use for use in committed().networks if use.network == "dcgan")
    assert committed(tmp_path / "wanted.json") == Wanted(committed().suite, of_one)
    assert f"{len(of_one)} of the networks" in capsys.readouterr().out


def test_every_product_is_served_and_there_once():
    found = committed()
    assert all(families.serving(row.product) for row in (*found.suite, *found.networks))
    assert len({layer.product for layer in found.suite}) == len(found.suite)
    assert len({(use.network, use.product) for use in found.networks}) == len(found.networks)
    assert min(use.count for use in found.networks) >= 1


def test_networks_are_of_published_size():
    """Depth, channels, batch, size and dtype of layers that the publications print."""
    uses = {
        (use.network, use.product.batch, use.product.in_channels, use.product.out_channels, *use.product.spec.in_spatial): use
        for use in committed().networks
        if use.product.role == "fprop" and max(use.product.spec.kernel_spatial) > 1
    }  # fmt: skip
    assert uses["resnet18", 256, 3, 64, 224, 224].count == 1
    assert uses["resnet18", 256, 64, 64, 56, 56].count == 4
    assert uses["convnext", 128, 384, 768, 14, 14].count == 1
    assert uses["efficientnet", 256, 3, 32, 224, 224].count == 1
    assert uses["unet", 16, 1024, 1024, 32, 32].count == 1
    assert uses["unet3d", 2, 1, 32, 128, 128, 128].count == 1
    assert uses["dcgan", 128, 256, 128, 16, 16].count == 2  # of either player's step
    assert uses["wavenet", 8, 128, 256, 16384].count == 3  # of a dilation
    assert {use.product.compute_dtype for use in uses.values()} == {"bfloat16"}


def test_published_batches_are_larger_than_those_for_a_cpu():
    for network in NETWORKS.values():
        assert network.published.images > SMALL.images or network.name == "unet3d", network.name
        assert network.published.side >= SMALL.side, network.name
