"""Lists the products that users want kernels for, found without running anything: `pallas_conv/wanted.json`.

    python -m bench.wanted --out pallas_conv/wanted.json

They are the products of the suite's layers, by themselves, and those of one training step of each network of
`workloads.models`, as `pallas_conv.explain` finds them: bfloat16, published channels, batches and sizes. Left out are products
that no kernel serves on Hopper.
"""

import argparse
import collections
import json
import pathlib
import sys
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

import pallas_conv as pc
from pallas_conv import strict
from pallas_conv.kernels import families
from pallas_conv.kernels.gpu import HOPPER
from pallas_conv.spec import Product
from pallas_conv.wanted import FILE, Layer, Use, Wanted
from workloads.models import NETWORKS, Network
from workloads.served import served


def suite() -> tuple[Layer, ...]:
    """The first layer of those that ask for the same product."""
    layers = {product: name for name, product in reversed(served().items())}
    return tuple(Layer(name, product) for product, name in reversed(layers.items()))


def step(network: Network) -> tuple[Any, ...]:
    """The operands of a training step at published size, in bfloat16, as shapes: model, optimiser's state, batch."""
    key = jax.random.key(0)
    model = pc.convert(_halved(eqx.filter_eval_shape(lambda: network.build(key, 1))))
    batch = _halved(jax.eval_shape(lambda: network.batch(key, *network.published)))
    return model, eqx.filter_eval_shape(network.start, model), *batch


def _halved(tree: Any) -> Any:
    """Every floating-point shape as one of bfloat16."""
    is_float = lambda a: isinstance(a, jax.ShapeDtypeStruct) and jnp.issubdtype(a.dtype, jnp.floating)
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, jnp.bfloat16) if is_float(a) else a, tree)


def uses(network: Network) -> list[Use]:
    """The products of a network's training step that kernels serve, in the order in which they first occur."""
    with pc.implementation(("mosaic", "xla")):  # whatever records say: with what a kernel sums in passing
        plans = pc.explain(network.step, *step(network), device="h100")
    counts = collections.Counter(plan.product for plan in plans if _served(plan.product))
    return [Use(network.name, count, product) for product, count in counts.items()]


def _served(product: Product) -> bool:
    return not families.reasons(product, HOPPER.capability)


def text(wanted: Wanted) -> str:
    """JSON with a row a line."""
    rows = lambda found: ",\n".join(json.dumps(strict.to_json(row), separators=(",", ":")) for row in found)
    return f'{{"suite":[\n{rows(wanted.suite)}\n],\n"networks":[\n{rows(wanted.networks)}\n]}}\n'


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.wanted", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=FILE, help="the JSON file (default: %(default)s)")
    args = parser.parse_args(argv)
    found = Wanted(suite(), tuple(use for network in NETWORKS.values() for use in uses(network)))
    args.out.write_text(text(found))
    print(f"{args.out}: {len(found.suite)} products of the suite, {len(found.networks)} of the networks")
    return 0


if __name__ == "__main__":
    sys.exit(main())
