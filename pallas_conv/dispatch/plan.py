"""The implementation that serves a product, and why: one planning function for the lowering rules and for `explain`."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

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
    lax             the lax program that runs, or that the kernel was compared with: a formulation, or those of all parts of
                    the product, as in "stock+stock". None where kernels were asked for by name
    by_name         whether it is what "xla" promises: stock's program, divided over devices as XLA divides it
    remarks         on what XLA does around the equation's kernels
    """

    product: Product
    target: Target
    implementation: str
    source: str
    kernel: Kernel | None = None
    reasons: tuple[str, ...] = ()
    lax: str | None = None
    by_name: bool = False
    remarks: tuple[str, ...] = ()

    @property
    def formulation(self) -> str | None:
        """The lax program, if one serves the product."""
        return self.lax if self.implementation == "xla" else None

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
            return (*self.to_run.notes, *self.remarks)
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


class Found(NamedTuple):
    """The kernel of a product, and the reasons against one.

    kernel    the kernel that runs on this device, or would on a GPU for which kernels are written; None if there is none
    anywhere  every reason why there is none
    here      every reason why none runs on this device
    """

    kernel: Kernel | None
    anywhere: tuple[str, ...]
    here: tuple[str, ...]


def _find(product: Product, target: Target, no_kernels: str | None) -> Found:
    """The kernel of a product. no_kernels: why none may run here, whatever it supports."""
    if no_kernels:
        return Found(None, (no_kernels,), (no_kernels,))
    gpu = Gpu.of(target)
    found = serve.find(product, gpu)
    kernel, anywhere = (found, ()) if isinstance(found, Kernel) else (None, found)
    if target.platform != "cuda":
        here = f"the kernels need an NVIDIA GPU of compute capability {generations()}, not {target}"
        return Found(kernel, anywhere, (here, *anywhere))
    if target.capability == gpu.generation.capability:
        return Found(kernel, anywhere, anywhere)
    return Found(kernel, anywhere, families.reasons(product, target.capability))


# ---------------------------------------------------------------- of one product


def plan(
    product: Product,
    target: Target,
    preferences: Sequence[str],
    no_kernels: str | None = None,
    channels_last: bool = False,
    beside_kernels: bool = False,
) -> Plan:
    """The first implementation of `preferences` that serves the product. Raises UnsupportedError if none does.

    "xla" and "auto" always serve it. "auto" compares the kernel with the lax program that would take its place.

    no_kernels      why no kernel may run here, whatever it supports
    channels_last   whether the caller's images lie so
    beside_kernels  whether kernels serve other products of the same equation
    """
    found, against = _find(product, target, no_kernels), list[str]()
    for name in preferences:
        if name == "xla":
            why = _asked_for(name)
            return Plan(product, target, "xla", why, found.kernel, tuple(against), formulations.STOCK, by_name=True)
        if name == "auto":
            lax, why = formulations.choose(product, target, beside_kernels, channels_last)
            missing = found.here
            if found.kernel and not missing:
                proof = _trust(found.kernel, target, lax)
                if proof.trusted:
                    return Plan(product, target, "mosaic", proof.why, found.kernel, tuple(against), lax)
                missing = (proof.why,)
            return Plan(product, target, "xla", why, found.kernel, (*against, *missing), lax)
        missing = found.anywhere if name == "interpret" else found.here
        if not missing:
            return Plan(product, target, name, _asked_for(name), found.kernel, tuple(against))
        against += missing
    against = list(dict.fromkeys(against))
    asked = ", ".join(map(repr, preferences))
    raise UnsupportedError(f"implementation {asked} cannot serve the {product.role} product on {target}", against)


def _asked_for(name: str) -> str:
    """The source of a plan whose implementation was asked for by its name."""
    return f'implementation "{name}" was asked for'


def _any_kernel(plans: Iterable[Plan]) -> bool:
    """Whether a kernel is launched among them. Interpreted ones do not count: XLA arranges nothing around these."""
    return any(plan.implementation == "mosaic" for plan in plans)


# ---------------------------------------------------------------- of an equation


def plans(equation: Equation, target: Target, operands: Sequence[Operand]) -> list[Plan]:
    """The plans of an equation: one for a kernel that serves all of it, see `Equation.wholes`, else one for each product.

    operands: arrays, or what has their shapes and dtypes.

    The products are planned first, since a kernel for all of them must be faster than they are. Of these the weight gradient
    is the last: where a kernel computes the input gradient, another lax program is the best for it. A kernel may serve a
    product with what it sums in passing, see `Equation.in_passing`.

    Raises UnsupportedError, with all reasons, if no implementation that was asked for serves a product.
    """
    if any(export.is_symbolic_dim(n) for t in operands for n in t.shape):
        equation = dataclasses.replace(equation, no_kernels="kernels are for sizes that are numbers, not symbols")
    op, parts, errors = equation.op, list[Plan](), list[UnsupportedError]()
    for product in sorted(equation.products([t.shape for t in operands]), key=lambda it: it.role == "wgrad"):
        beside_kernels = equation.beside_kernels or _any_kernel(parts)
        try:
            parts.append(
                plan(product, target, op.implementation, equation.no_kernels, op.channels_last, beside_kernels)
            )
        except UnsupportedError as error:
            errors.append(error)
    wholes, against = equation.wholes(operands), ""
    lax = _without_kernels(equation, parts) if wholes else None
    apart = [_with_sums(equation, part, equation.in_passing(part.product, operands), wholes) for part in parts]
    for whole in wholes:
        chosen, against = _at_once(equation, whole, parts, target, lax)
        if chosen:
            against = _slower_at_once(equation, chosen, apart)
        if chosen and not against:
            return [chosen]
    if errors:
        raise UnsupportedError.together(errors)
    if apart and all(it.implementation != "xla" for it in apart):
        remarks = list[str]()
        if against and _is_expected(wholes[-1]):
            remarks.append(f"no one kernel computes all gradients at once: {against}")
        if equation.primitive == "bwd" and "a" in equation.names and "dr" not in dict(equation.outs):
            remarks.append(_derivative(op, dict(zip(equation.names, operands, strict=True)), len(apart)))
        apart[0] = dataclasses.replace(apart[0], remarks=tuple(remarks))
    return apart


def _with_sums(equation: Equation, part: Plan, more: Product | None, wholes: Sequence[Product]) -> Plan:
    """The plan of a part of an equation, or of a kernel that serves it with what it sums in passing (`more`).

    Where that is all that the equation wants, it is one of the wholes, which are planned as such.
    """
    if more is None or more in wholes:
        return part
    return _at_once(equation, more, [part], part.target, part.lax)[0] or part


def _is_expected(whole: Product) -> bool:
    """Whether some family computes all gradients of such layers at once, so that users may ask why none does here."""
    return whole.role == "bwd" and any(f.is_for(whole) for f in families.FAMILIES if "bwd" in f.roles)


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
    equation: Equation, whole: Product, parts: Sequence[Plan], target: Target, lax: str | None
) -> tuple[Plan | None, str]:
    """The plan of one kernel for all these parts of an equation; or None, and why.

    lax: what runs where kernels serve none of the parts. None where kernels were asked for by name.
    """
    found = _find(whole, target, equation.no_kernels)
    if found.kernel is None:
        return None, "; ".join(found.anywhere)
    for name in equation.op.implementation:
        missing = found.anywhere if name == "interpret" else found.here
        if name == "xla" or (name == "auto" and missing):  # which settle the parts, too
            return None, "; ".join(missing)
        if name == "auto":
            proof = _trust_at_once(found.kernel, target, str(lax), parts)
            chosen = Plan(whole, target, "mosaic", proof.why, found.kernel, lax=lax)
            return chosen if proof.trusted else None, proof.why
        if not missing:
            return Plan(whole, target, name, _asked_for(name), found.kernel), ""
    return None, "; ".join(found.here)


def _without_kernels(equation: Equation, parts: Sequence[Plan]) -> str | None:
    """The lax programs that run where kernels serve none of the parts, by which times are filed: "stock+stock"."""
    names = list[str | None]()
    for i, part in enumerate(parts):
        if _any_kernel(parts[:i]) and not equation.beside_kernels:  # planned beside kernels that are not there then
            names.append(formulations.choose(part.product, part.target)[0])
        else:
            names.append(part.lax)
    return None if None in names else "+".join(map(str, names))


def _slower_at_once(equation: Equation, chosen: Plan, parts: Sequence[Plan]) -> str:
    """The reason to take kernels of the parts where kernels were asked for by name: by the model they are faster. Else "".

    chosen: the plan of one kernel for several parts. Where `auto` chose it, measured times did. A part that XLA computes has no
    modelled time, and whoever asked for kernels wants as many as there are.
    """
    by_name = chosen.source == _asked_for(chosen.implementation)
    if not by_name or len(parts) == 1 or any(part.implementation == "xla" for part in parts):
        return ""
    at_once, apart = _modelled_us(equation, [chosen]), _modelled_us(equation, parts)
    return f"by the model it takes {at_once:.3g} us, and they {apart:.3g} us" if apart < at_once else ""


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


# ---------------------------------------------------------------- what is known of its times


def _trust_at_once(kernel: Kernel, target: Target, lax: str, parts: Sequence[Plan]) -> trust.Trust:
    """Whether `auto` may take a kernel for all parts of an equation at once.

    It must be faster than the lax programs that run without kernels. If there are several parts, and `auto` takes a kernel for
    one of them or more, it must also be faster than the parts together.
    """
    proof = _trust(kernel, target, lax)
    if not proof.trusted or len(parts) == 1 or not _any_kernel(parts):
        return proof
    at_once, *of_parts = _seconds(kernel, target, lax), *map(_seconds_of_part, parts)
    known = [seconds for seconds in of_parts if seconds is not None]
    if at_once is None or len(known) < len(parts):
        return trust.Trust(False, "its parts were not all timed, so it cannot be compared with them")
    faster = sum(known) / at_once
    why = f"{faster:.2f}x the speed of its parts, which are {' and '.join(part.implementation for part in parts)}"
    return trust.Trust(faster >= 1, f"{proof.why}; {why}")


def _seconds_of_part(part: Plan) -> float | None:
    """The time of a part by the kernel or the lax program that its plan names; None if nothing near it was timed."""
    if part.kernel is None or part.lax is None:
        return None
    return _seconds(part.kernel, part.target, part.lax, by_kernel=part.implementation == "mosaic")


def _seconds(kernel: Kernel, target: Target, lax: str, by_kernel: bool = True) -> float | None:
    """The time of a product by its kernel, or by a lax program: that of the nearest product timed, scaled by multiply-adds."""
    nearest = trust.proofs(kernel.family.name, target).nearest(kernel.series, kernel.size, lax)
    if nearest is None:
        return None
    timing = nearest.timing
    return 1e-6 * (timing.kernel_us if by_kernel else timing.lax_us) * kernel.size.macs / timing.size.macs


def _trust(kernel: Kernel, target: Target, lax: str) -> trust.Trust:
    """Whether `auto` may take the kernel instead of this lax program.

    Choosing a tile takes a while, so the first question is whether the kernel is faster. Where some kernel was found wrong, a
    tile is chosen all the same, since the tile says whether it is this one.
    """
    if not (known := trust.proofs(kernel.family.name, target)):
        return trust.Trust(False, trust.nothing_known(kernel.family.name, target))
    faster = known.faster(kernel.series, kernel.size, lax)
    if not faster.trusted and not known.any_wrong:
        return faster
    against = known.not_right(kernel.facts)
    return trust.Trust(False, against) if against else faster
