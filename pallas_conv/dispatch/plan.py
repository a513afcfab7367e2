"""The implementation that serves a product, and why: one planning function for the lowering rules and for `explain`."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
from jax import export

from .. import formulations
from ..equation import Equation, Op, Operand, wider
from ..errors import UnsupportedError
from ..kernels import families, modelled, serve
from ..kernels.gpu import Gpu, generations
from ..kernels.serve import Kernel
from ..spec import Product
from ..target import Target
from . import trust


@dataclasses.dataclass(frozen=True)
class Plan:
    """The choice of an implementation for one product on one device, and the reasons for it.

    implementation  "mosaic", "interpret" or "xla"
    source          where the choice came from
    kernel          the kernel that serves it, or would on a GPU for which it is written; None if there is none
    reasons         against every implementation that was preferred to it, and against the kernel if it is not taken
    formulation     the lax program, if one serves the product
    by_name         whether it is what "xla" promises: stock's program, divided over devices as XLA divides it
    beside          remarks on what XLA does beside the equation's kernels
    """

    product: Product
    target: Target
    implementation: str
    source: str
    kernel: Kernel | None = None
    reasons: tuple[str, ...] = ()
    formulation: str | None = None
    by_name: bool = False
    beside: tuple[str, ...] = ()

    @property
    def gathers(self) -> bool:
        """Whether XLA, left to divide this program over devices, would gather the batch, and may be kept from it."""
        return (
            self.implementation == "xla"
            and not self.by_name
            and not formulations.xla_divides(str(self.formulation), self.product)
        )

    @property
    def to_run(self) -> Kernel:
        """The kernel, of a product that one serves."""
        if self.kernel is None:
            raise ValueError(f"no kernel serves the {self.product.role} product")
        return self.kernel

    @property
    def scope(self) -> str:
        """A name to look for in a profile or a compiled program: the kernel's, or the named scope of the lax program."""
        if self.implementation == "xla":
            return f"pallas_conv_{self.product.role}_{self.formulation}"
        return self.to_run.name

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks for the user: copies that are made, results that are rounded."""
        if self.implementation != "xla":
            return (*self.to_run.notes, *self.beside)
        if not rounds_once(self.product, self.target):
            return ()
        where = "with out_dtype, " if self.product.role == "fprop" else ""
        return (
            f"the {self.product.out_dtype} result is rounded to {self.product.compute_dtype} once, as in stock; "
            f'{where}precision="highest" keeps it wide at the price of a float32 convolution',
        )


def rounds_once(product: Product, target: Target) -> bool:
    """Whether a lax program rounds a result to the compute dtype: on a GPU XLA would else convolve in float32."""
    return target.is_gpu and product.precision != "highest" and _widens(product)


def _widens(product: Product) -> bool:
    return wider(product.compute_dtype, product.out_dtype) != product.compute_dtype


def plan(
    product: Product,
    target: Target,
    preferences: Sequence[str],
    no_kernels: str | None = None,
    channels_last: bool = False,
    siblings: Sequence[Plan] = (),
) -> Plan:
    """The first implementation of `preferences` that serves the product. Raises UnsupportedError if none does.

    no_kernels     why no kernel may run here, whatever it supports
    channels_last  whether the caller's images lie so
    siblings       plans of other products of the same equation
    """
    found = (no_kernels,) if no_kernels else serve.find(product, Gpu.of(target))
    kernel, unserved = (found, ()) if isinstance(found, Kernel) else (None, found)
    against: list[str] = []
    for name in preferences:
        if name == "xla":
            why = _asked_for(name)
            return Plan(product, target, "xla", why, kernel, tuple(against), formulations.STOCK, by_name=True)
        missing = unserved if no_kernels or name == "interpret" else _missing(product, target, unserved)
        if name == "auto":
            if kernel and not missing:
                proof = _trust(kernel, target, formulations.choose(product, target)[0])
                if proof.trusted:
                    return Plan(product, target, "mosaic", proof.why, kernel, tuple(against))
                missing = (proof.why,)
            beside_kernels = _beside_kernels(product, target, preferences, no_kernels, siblings)
            chosen, why = formulations.choose(product, target, beside_kernels, channels_last)
            return Plan(product, target, "xla", why, kernel, (*against, *missing), chosen)
        if not missing:
            return Plan(product, target, name, _asked_for(name), kernel, tuple(against))
        against += missing
    against = list(dict.fromkeys(against))
    asked = ", ".join(map(repr, preferences))
    raise UnsupportedError(f"implementation {asked} cannot serve the {product.role} product on {target}", against)


def plans(equation: Equation, target: Target, operands: Sequence[Operand]) -> list[Plan]:
    """The plans of an equation: one for a kernel that serves all of it, see `Equation.wholes`, else one for each product.

    operands: arrays, or what has their shapes and dtypes.

    A kernel may serve a product with what it sums in passing, see `Equation.in_passing`.

    Raises UnsupportedError, with all reasons, if no implementation that was asked for serves a product.
    """
    if any(export.is_symbolic_dim(n) for t in operands for n in t.shape):
        equation = dataclasses.replace(equation, no_kernels="kernels are for sizes that are numbers, not symbols")
    op, found, errors = equation.op, list[Plan](), list[UnsupportedError]()
    for product in equation.products([t.shape for t in operands]):
        try:
            found.append(
                plan(product, target, op.implementation, equation.no_kernels, op.channels_last, siblings=tuple(found))
            )
        except UnsupportedError as error:
            errors.append(error)
    in_passing = ((part, equation.in_passing(part.product, operands)) for part in found)
    together = [
        (more and _at_once(more, [part], target, op.implementation, equation.no_kernels)) or part
        for part, more in in_passing
    ]
    wholes, slower = equation.wholes(operands), None
    for whole in wholes:
        chosen = _at_once(whole, found, target, op.implementation, equation.no_kernels)
        if chosen and not (slower := _slower_at_once(equation, chosen, together)):
            return [chosen]
    if errors:
        raise UnsupportedError.together(errors)
    if together and all(it.implementation != "xla" for it in together):
        remarks = [why for whole in wholes[-1:] if (why := _in_parts(whole, found, target, slower))]
        if equation.primitive == "bwd" and "a" in equation.names and "dr" not in dict(equation.outs):
            remarks.append(_derivative(op, dict(zip(equation.names, operands, strict=True)), len(together)))
        together[0] = dataclasses.replace(together[0], beside=tuple(remarks))
    return together


def _in_parts(whole: Product, parts: Sequence[Plan], target: Target, slower: str | None) -> str | None:
    """A remark on why kernels compute all gradients one by one, if some family computes those of such layers at once.

    slower: what `_slower_at_once` says.
    """
    if whole.role != "bwd" or not any(family.is_for(whole) for family in families.FAMILIES if "bwd" in family.roles):
        return None
    kernel, why = serve.find(whole, Gpu.of(target)), slower
    if why is None:
        why = _trust_at_once(kernel, target, parts).why if isinstance(kernel, Kernel) else "; ".join(kernel)
    return f"no one kernel computes all gradients at once: {why}"


def _derivative(op: Op, v: Mapping[str, Operand], kernels: int) -> str:
    """A remark on where the cotangent is multiplied by the derivative of the activation, if kernels compute all products.

    XLA reads it and what the activation saved, and writes their product in the compute dtype, which every kernel then reads.
    Kernels could read both instead, with twice the loads of a cotangent into shared memory. A sum for biases is not counted.
    """
    size = math.prod(v["ct"].shape)
    both = size * (jnp.dtype(v["ct"].dtype).itemsize + jnp.dtype(v["a"].dtype).itemsize)
    by_xla, in_loads = both + (1 + kernels) * size * op.compute_dtype.itemsize, kernels * both
    return (
        f"XLA multiplies the cotangent by the derivative of {op.activation}, which moves {by_xla / 1e6:.3g} MB up to the "
        f"kernels; multiplied where kernels load it, {in_loads / 1e6:.3g} MB would move"
    )


def _at_once(
    whole: Product, parts: Sequence[Plan], target: Target, preferences: Sequence[str], no_kernels: str | None
) -> Plan | None:
    """The plan of a product that takes the place of all parts of an equation. None if the parts are computed one by one."""
    if no_kernels or families.serving(whole) is None:
        return None
    kernel = serve.find(whole, Gpu.of(target))
    if not isinstance(kernel, Kernel):
        return None
    for name in preferences:
        missing = name != "interpret" and _missing(whole, target, ())
        if name == "xla" or (name == "auto" and missing):  # which settle the parts, too
            return None
        if name == "auto":
            proof = _trust_at_once(kernel, target, parts)
            return Plan(whole, target, "mosaic", proof.why, kernel) if proof.trusted else None
        if not missing:
            return Plan(whole, target, name, _asked_for(name), kernel)
    return None


def _asked_for(name: str) -> str:
    """The source of a plan whose implementation was asked for by its name."""
    return f'implementation "{name}" was asked for'


def _slower_at_once(equation: Equation, chosen: Plan, parts: Sequence[Plan]) -> str | None:
    """The reason to take kernels of the parts where kernels were asked for by name: by the model they are faster. Else None.

    chosen: the plan of one kernel for several parts. Where `auto` chose it, measured times did. A part that XLA computes has no
    modelled time, and whoever asked for kernels wants as many as there are.
    """
    by_name = chosen.source == _asked_for(chosen.implementation)
    if not by_name or len(parts) == 1 or any(part.implementation == "xla" for part in parts):
        return None
    at_once, apart = _modelled_us(equation, [chosen]), _modelled_us(equation, parts)
    return f"by the model it takes {at_once:.3g} us, and they {apart:.3g} us" if apart < at_once else None


def _modelled_us(equation: Equation, plans: Sequence[Plan]) -> float:
    """The time of an equation's gradients by these kernels, with XLA's pass over the cotangent, if it has one.

    If there is an activation, and no kernel multiplies by its derivative, XLA reads the cotangent and what was saved. It writes
    their product, which it sums for a bias gradient meanwhile. Where a bias gradient is all that kernels leave out, XLA reads
    the same arrays and writes nothing of their size.
    """
    product = plans[-1].product
    computed = {name for plan in plans for name in plan.product.outputs}
    arrays, summed = 1 + ("a" in equation.names), "db" in dict(equation.outs) and "db" not in computed
    multiplied = "a" in equation.names and not any(plan.product.activation for plan in plans)
    passed = arrays + 1 if multiplied else arrays if summed else 0
    shapes = dict(zip(product.operands, product.operand_shapes, strict=True))
    nbytes = passed * math.prod(shapes["ct"]) * jnp.dtype(product.compute_dtype).itemsize
    return modelled.microseconds([plan.to_run for plan in plans], nbytes)


def rival(plans: Sequence[Plan]) -> str:
    """The name of what runs without kernels, by which times of them are filed: "stock", and of several parts "stock+stock"."""
    return "+".join(plan.formulation or formulations.choose(plan.product, plan.target)[0] for plan in plans)


def _missing(product: Product, target: Target, unserved: tuple[str, ...]) -> tuple[str, ...]:
    """The reasons why no kernel can run on this device. unserved: the reasons why none can on a GPU they are written for."""
    if target.platform != "cuda":
        return (f"the kernels need an NVIDIA GPU of compute capability {generations()}, not {target}", *unserved)
    return families.reasons(product, target.capability)


def _beside_kernels(
    product: Product, target: Target, preferences: Sequence[str], no_kernels: str | None, siblings: Sequence[Plan]
) -> bool:
    """Whether a kernel serves the input gradient of the convolution of which this product is the weight gradient.

    A first layer has no input gradient: the question is then whether one would be served.
    """
    if product.role != "wgrad" or target.platform != "cuda":
        return False
    if siblings:
        return siblings[0].implementation == "mosaic"
    imagined = dataclasses.replace(product, role="dgrad", out_dtype=product.compute_dtype, outputs=())
    return plan(imagined, target, preferences, no_kernels).implementation == "mosaic"


def _trust_at_once(kernel: Kernel, target: Target, parts: Sequence[Plan]) -> trust.Trust:
    """Whether `auto` may take a kernel for all parts of an equation at once.

    It must be faster than what runs without kernels. If there are several parts, and `auto` takes a kernel for one of them or
    more, it must also be faster than the parts together.
    """
    proof = _trust(kernel, target, rival(parts))
    if not proof.trusted or len(parts) == 1 or all(part.implementation == "xla" for part in parts):
        return proof
    at_once, *of_parts = _seconds(kernel, target, rival(parts)), *map(_seconds_of_part, parts)
    known = [seconds for seconds in of_parts if seconds is not None]
    if at_once is None or len(known) < len(parts):
        return trust.Trust(False, "its parts were not all timed, so it cannot be compared with them")
    faster = sum(known) / at_once
    why = f"{faster:.2f}x the speed of its parts, which are {' and '.join(part.implementation for part in parts)}"
    return trust.Trust(faster >= 1, f"{proof.why}; {why}")


def _seconds_of_part(part: Plan) -> float | None:
    """The time of a part by the kernel or the lax program that its plan names; None if nothing near it was timed."""
    if part.kernel is None:
        return None
    return _seconds(part.kernel, part.target, rival([part]), by_kernel=part.implementation == "mosaic")


def _seconds(kernel: Kernel, target: Target, lax: str, by_kernel: bool = True) -> float | None:
    """The time of a product by its kernel, or by a lax program: that of the nearest product timed, scaled by multiply-adds."""
    nearest = trust.proofs(kernel.family.name, target).nearest(kernel.series, kernel.size, lax)
    if nearest is None:
        return None
    timing = nearest.timing
    return 1e-6 * (timing.kernel_us if by_kernel else timing.lax_us) * kernel.size.macs / timing.size.macs


def _trust(kernel: Kernel, target: Target, rival: str) -> trust.Trust:
    """Whether `auto` may take the kernel instead of this lax program.

    Choosing a tile takes a while, so the first question is whether the kernel is faster. Where some kernel was found wrong, a
    tile is chosen all the same, since the tile says whether it is this one.
    """
    if not (known := trust.proofs(kernel.family.name, target)):
        return trust.Trust(False, trust.nothing_known(kernel.family.name, target))
    faster = known.faster(kernel.series, kernel.size, rival)
    if not faster.trusted and not known.any_wrong:
        return faster
    return known.look_up(kernel.facts, rival)
