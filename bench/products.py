"""The programs of a product, or of a layer of the suite, as a runner compiles them: ours, stock's, the best without kernels.

Their makers are partials of this module's functions, so that other processes can lower kernels.
"""

import functools
from collections.abc import Iterable
from typing import Any

import jax

import pallas_conv as pc
from pallas_conv import formulations
from pallas_conv.doctor.plan import NO_KERNELS, lax_program, rivals
from pallas_conv.equation import Equation
from pallas_conv.kernels import families, serve
from pallas_conv.kernels.gpu import HOPPER, Gpu
from pallas_conv.kernels.serve import Kernel
from pallas_conv.lowering.execution import execute
from pallas_conv.spec import Product
from pallas_conv.target import Target
from workloads.cases import Case

from .runner import Program, Row, Source


def served(case: Case, direction: str) -> bool:
    """Whether a kernel serves this direction of a layer on a Hopper GPU."""
    product = case.products().get(direction)
    return product is not None and not families.reasons(product, HOPPER.capability)


def about(kernel: Kernel) -> Row:
    """The fields of a row of a kernel."""
    facts = kernel.facts
    return {
        "family": kernel.family.name,
        "product": kernel.product.to_json(),
        "config": kernel.config.to_json(),
        "num_sms": kernel.gpu.num_sms,
        "facts": facts.to_json(),
        "code_path": facts.code_path,
        "variant": kernel.variant,
    }


def several(kernels: Iterable[Row]) -> Row:
    """The fields of a row of several kernels, from those of each: by family, the facts of the first of a path and epilogue."""
    found: dict[str, dict[tuple[str, str], Row]] = {}
    for it in kernels:
        facts = it["facts"]
        found.setdefault(it["family"], {}).setdefault((facts["code_path"], facts["epilogue"]), facts)
    paths = {path for of_family in found.values() for path, _ in of_family}
    by_family = {family: list(of_family.values()) for family, of_family in found.items()}
    return {"code_paths": sorted(paths), "several_facts": by_family} if found else {}


# ------------------------------------------------------------ of a product


def kernel(name: str, kernel: Kernel, interpret: bool = False, question: str = "") -> Program:
    """The program of our kernel, from the product's operands to a list of its outputs."""
    make = functools.partial(_kernel, kernel, interpret)
    return Program(f"{name} ours", make, kernel=True, question=question, portable=not interpret)


def _kernel(kernel: Kernel, interpret: bool) -> Source:
    run = functools.partial(kernel.run, interpret=interpret)
    return Source(run, operands_of(kernel.product), about(kernel))


def usual(name: str, product: Product) -> Program:
    """XLA's program of a product on the CPU, with the same operands: a measure of errors that disturbs nothing on the GPU."""
    return Program(f"{name} usual", functools.partial(_usual, product), on_cpu=True)


def _usual(product: Product) -> Source:
    return Source(functools.partial(_without_kernels, Target("cpu"), product), operands_of(product))


def _without_kernels(target: Target, product: Product, *operands: Any, beside_kernels: bool = False) -> list[jax.Array]:
    return execute(Equation.of(product, ("auto",), NO_KERNELS, beside_kernels), target, *operands)


def beside(product: Product, target: Target) -> str | None:
    """The lax program that `auto` takes for a product beside kernels; None where it takes the same without them."""
    return next((name for name, beside_kernels in rivals(product, target).items() if beside_kernels), None)


def operands_of(product: Product) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Biases are float32, a residual is of the result's dtype, as a kernel makes them."""
    others = {"b": "float32", "r": product.out_dtype}
    dtypes = [others.get(name, product.compute_dtype) for name in product.operands]
    return tuple(jax.ShapeDtypeStruct(s, d) for s, d in zip(product.operand_shapes, dtypes, strict=True))


# ------------------------------------------------------------ of a layer of the suite


def operands(case: Case, direction: str, on_cpu: bool = False) -> Program:
    """Draws operands for a seed."""
    name = f"{case.name}/{direction} operands{' on the CPU' * on_cpu}"
    return Program(name, functools.partial(_drawn, case, direction), alone=False, on_cpu=on_cpu)


def _drawn(case: Case, direction: str) -> Source:
    return Source(lambda seed: case.arrays(direction, seed), (jax.ShapeDtypeStruct((), "uint32"),))


def stock(case: Case, direction: str) -> Program:
    """The program that a user of equinox runs today."""
    return Program(f"{case.name}/{direction} stock", functools.partial(_layer, case, direction, None))


def formulation(case: Case, direction: str, target: Target) -> str:
    """The lax program of a product that `auto` takes where no kernel runs, or those of its parts: "stock+stock"."""
    return lax_program(case.products()[direction], target)


def best(case: Case, direction: str, target: Target) -> Program | None:
    """The program of `auto` without kernels, where that is not stock's."""
    title = f"{case.name}/{direction} best"
    if direction != "fb":
        make = functools.partial(_best, case, direction, target)
        names = set(formulation(case, direction, target).split("+"))
        return None if names == {formulations.STOCK} else Program(title, make)
    converted = case.stock(direction, convert=pc.convert)
    names = [p.formulation for p in pc.explain(converted, *_shapes(case, direction), device=target)]
    if None in names or set(names) == {formulations.STOCK}:  # None: a kernel that is proven
        return None
    return Program(title, functools.partial(_layer, case, direction, ("auto",)))


def best_beside(case: Case, direction: str, target: Target) -> Program | None:
    """The program of that name, see `beside`; None where there is none, and for a training step."""
    if direction == "fb" or beside(case.products()[direction], target) is None:
        return None
    make = functools.partial(_best, case, direction, target, beside_kernels=True)
    return Program(f"{case.name}/{direction} beside", make)


def _best(case: Case, direction: str, target: Target, beside_kernels: bool = False) -> Source:
    run = functools.partial(_without_kernels, target, beside_kernels=beside_kernels)
    return Source(case.ours(direction, run), _shapes(case, direction))


def ours(
    case: Case, direction: str, gpu: Gpu, interpret: bool = False, config: Any = None, name: str = "ours"
) -> Program:
    """The layer's product by our kernel; of the direction "fb" the converted layer, by kernels where they serve it.

    config: None is today's choice. Several of one layer need several names.
    """
    title = f"{case.name}/{direction} {name}"
    if direction == "fb":
        return Program(title, functools.partial(_step, case, gpu), kernel=True)
    make = functools.partial(_ours, case, direction, gpu, interpret, config)
    return Program(title, make, kernel=True, portable=not interpret)


def _layer(case: Case, direction: str, converted: tuple[str, ...] | None) -> Source:
    """The layer as equinox has it, or converted, under a preference."""
    if converted is None:
        return Source(case.stock(direction), _shapes(case, direction))
    f = case.stock(direction, convert=pc.convert)

    def preferring(*operands: jax.Array) -> Any:
        with pc.implementation(converted):
            return f(*operands)

    return Source(preferring, _shapes(case, direction))


def _ours(case: Case, direction: str, gpu: Gpu, interpret: bool, config: Any) -> Source:
    kernel = serve.kernel(case.products()[direction], gpu, config)
    run = lambda _, *operands: kernel.run(*operands, interpret=interpret)
    return Source(case.ours(direction, run), _shapes(case, direction), about(kernel))


def _step(case: Case, gpu: Gpu) -> Source:
    source = _layer(case, "fb", ("mosaic", "auto"))
    at_once = {"d", "w"} if served(case, "b") else set()  # of which "b" takes the place
    kernels = [serve.kernel(p, gpu) for d, p in case.products().items() if served(case, d) and d not in at_once]
    return source._replace(about=several(map(about, kernels)))


def _shapes(case: Case, direction: str) -> tuple[Any, ...]:
    return jax.eval_shape(lambda: case.arrays(direction))
