"""Which implementation serves a product, and why: the one planning function of the lowering rules and of `explain`."""

import dataclasses
from collections.abc import Sequence

from . import formulations, trust
from .errors import UnsupportedError
from .kernels import choice, config, evidence, support
from .spec import Product
from .target import Target
from .trilinear import wider


@dataclasses.dataclass(frozen=True)
class Plan:
    """What serves one product on one device.

    implementation  "mosaic", "interpret" or "xla"
    source          where the choice came from
    reasons         against every implementation that was preferred to it, and against the kernel if it is not taken
    formulation     the lax program, if one serves the product
    by_name         whether it is what "xla" promises: stock's program, divided over devices as XLA divides it
    """

    product: Product
    target: Target
    implementation: str
    source: str
    reasons: tuple[str, ...] = ()
    formulation: str | None = None
    by_name: bool = False

    @property
    def gathers(self) -> bool:
        """Whether XLA, left to divide this program over devices, would gather the batch, and may be kept from it."""
        return (
            self.implementation == "xla"
            and not self.by_name
            and not formulations.xla_divides(str(self.formulation), self.product)
        )

    @property
    def kernel(self) -> str | None:
        """The kernel that serves the product, or would on a Hopper GPU where it is proven; None if there is none."""
        return None if support.reasons(self.product, support.CAPABILITY) else support.kernel_name(self.product)

    @property
    def num_sms(self) -> int:
        return _num_sms(self.target)

    @property
    def tile(self) -> config.Config:
        """The configuration of that kernel. Only where there is one."""
        return choice.choose(self.product, self.num_sms, self.target.device_kind)

    @property
    def scope(self) -> str:
        """What to look for in a profile or a compiled program: the kernel's name, or the named scope of the lax program."""
        if self.implementation == "xla":
            return f"pallas_conv_{self.product.role}_{self.formulation}"
        return support.kernel_name(self.product)

    @property
    def notes(self) -> tuple[str, ...]:
        """What else a user might want to know: copies, roundings."""
        found = list(support.copies(self.product, self.tile)) if self.implementation != "xla" else []
        if self.implementation == "xla" and rounds_once(self.product, self.target):
            where = "with out_dtype, " if self.product.role == "fprop" else ""
            found.append(
                f"the {self.product.out_dtype} result is rounded to {self.product.compute_dtype} once, as in stock; "
                f'{where}precision="highest" keeps it wide at the price of a float32 convolution'
            )
        return tuple(found)


def _num_sms(target: Target) -> int:
    """Of the target if it is a Hopper GPU, else of the one on which the kernel would run."""
    return (target.num_sms if target.capability == support.CAPABILITY else None) or config.H100_SMS


def rounds_once(product: Product, target: Target) -> bool:
    """A lax program on a GPU stores results in the compute dtype: asked for a wider one, XLA would convolve in float32."""
    return target.is_gpu and product.precision != "highest" and _widens(product)


def _widens(product: Product) -> bool:
    return wider(product.compute_dtype, product.out_dtype) != product.compute_dtype


def plan(
    product: Product,
    target: Target,
    preferences: Sequence[str],
    no_kernels: str | None = None,
    channels_last: bool = False,
) -> Plan:
    """The first implementation of `preferences` that serves the product. Raises UnsupportedError if none does.

    no_kernels: why no kernel may run here, whatever it supports. channels_last: whether the caller's images lie so.
    """
    against: list[str] = []
    for name in preferences:
        if name == "xla":
            why = 'implementation "xla" was asked for'
            return Plan(product, target, "xla", why, tuple(against), formulations.STOCK, by_name=True)
        if no_kernels:
            found = [no_kernels]
        else:
            found = _interpreter_reasons(product) if name == "interpret" else _kernel_reasons(product, target)
        if name == "auto":
            beside_kernels = _beside_kernels(product, target, preferences, no_kernels)
            rival, why = formulations.choose(product, target, beside_kernels, channels_last)
            proof = _trust(product, target, rival) if not found else trust.Trust(False, "")
            if proof.trusted:
                return Plan(product, target, "mosaic", proof.why, tuple(against))
            return Plan(product, target, "xla", why, (*against, *(found or [proof.why])), rival)
        if not found:
            where = f'implementation "{name}" was asked for'
            return Plan(product, target, name, where, tuple(against))
        against += found
    against = list(dict.fromkeys(against))
    asked = ", ".join(map(repr, preferences))
    raise UnsupportedError(f"implementation {asked} cannot serve the {product.role} product on {target}", against)


def _beside_kernels(product: Product, target: Target, preferences: Sequence[str], no_kernels: str | None) -> bool:
    """Of a weight gradient: whether a kernel serves the input gradient of the same convolution."""
    if product.role != "wgrad" or target.platform != "cuda":
        return False
    sibling = dataclasses.replace(product, role="dgrad", out_dtype=product.compute_dtype)
    return plan(sibling, target, preferences, no_kernels).implementation == "mosaic"


def _trust(product: Product, target: Target, rival: str) -> trust.Trust:
    """May `auto` take the kernel instead of this lax program? A tile takes a while to choose: first, is the kernel faster?

    Where some kernel was found wrong the tile is chosen all the same, since the tile says whether it is this one.
    """
    if not (known := trust.proofs(target)):
        return trust.Trust(False, trust.nothing_known(target))
    faster = known.faster(support.family(product), evidence.size(product), rival)
    if not faster.trusted and not known.any_wrong:
        return faster
    tile = choice.choose(product, _num_sms(target), target.device_kind)
    return known.look_up(evidence.facts(product, tile), rival)


def _interpreter_reasons(product: Product) -> list[str]:
    return list(support.reasons(product, support.CAPABILITY))


def _kernel_reasons(product: Product, target: Target) -> list[str]:
    if target.platform != "cuda":
        device = f"the kernels need an NVIDIA GPU of compute capability 9.0 (Hopper), not {target}"
        return [device, *_interpreter_reasons(product)]
    return list(support.reasons(product, target.capability))
