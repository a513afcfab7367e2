"""The kernel of a product: found, configured, run. One door for all families."""

import dataclasses
import functools
from typing import Any

from jax import Array

from pallas_conv.spec import Product

from . import choice, families, tuned
from .family import Facts, Family, Size, fused
from .gpu import ANY_HOPPER, Gpu


@dataclasses.dataclass(frozen=True)
class Kernel:
    """The kernel of a product on a GPU. given: a configuration to use instead of the chosen one."""

    family: Family
    product: Product
    gpu: Gpu
    given: Any = None

    @property
    def name(self) -> str:
        """The kernel's name in a profiler."""
        return f"pallas_conv_{self.variant}"

    @property
    def variant(self) -> str:
        """Family, series and epilogue in one word."""
        return f"{self.family.name}_{self.series}_{fused(self.product)}"

    @property
    def config(self) -> Any:
        """The configuration. It is chosen when first asked for, which takes a while."""
        return self.given or _chosen(self.family, self.product, self.gpu)

    @property
    def series(self) -> str:
        """The name of the series of products whose times speak for each other."""
        return self.family.series(self.product)

    @property
    def size(self) -> Size:
        """The size of the product."""
        return self.family.size(self.product)

    @property
    def facts(self) -> Facts:
        """The names and the size under which a hardware run files what it proves and times."""
        path, epilogue = (
            self.family.code_path(self.product, self.config),
            self.family.epilogue(self.product, self.config),
        )
        return Facts(path, epilogue, self.series, self.size)

    @property
    def notes(self) -> tuple[str, ...]:
        """The copies that XLA makes around the kernel."""
        return tuple(self.family.notes(self.product, self.config))

    def run(self, *operands: Array, interpret: bool = False) -> list[Array]:
        """Launch the kernel once, on channels-first operands of the product, and return its results. Imports Pallas.

        The transpositions to channels last and back are changes of layout: XLA cancels them between layers.
        """
        body = families.body(self.family, self.gpu.generation.capability)
        found: list[Array] = body.run(
            self.product, self.config, self.gpu, *operands, name=self.name, interpret=interpret
        )
        return found


def find(product: Product, gpu: Gpu = ANY_HOPPER) -> Kernel | tuple[str, ...]:
    """The kernel of a product on a GPU, or every reason why there is none."""
    found = families.find(product, gpu.generation.capability)
    return found if isinstance(found, tuple) else Kernel(found, product, gpu)


def kernel(product: Product, gpu: Gpu = ANY_HOPPER, config: Any = None) -> Kernel:
    """The kernel that serves a product. Raises ValueError, with the reasons, if none does."""
    found = find(product, gpu)
    if isinstance(found, tuple):
        raise ValueError(f"no kernel serves the product: {'; '.join(found)}")
    return dataclasses.replace(found, given=config)


def choose(product: Product, gpu: Gpu = ANY_HOPPER) -> Any:
    """The configuration that the kernel of a product gets. Raises ValueError if none serves it."""
    return kernel(product, gpu).config


@functools.cache
def _chosen(family: Family, product: Product, gpu: Gpu) -> Any:
    """The tuned configuration if there is one, else the best by the model."""
    return tuned.look_up(family, product, gpu) or choice.best(family, family.problem(product), gpu)
