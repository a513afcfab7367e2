"""The programs of a product, or of a layer of the suite, as a runner compiles them: ours, stock's, the best without kernels.

Their makers are partials of this module's functions, so that other processes can lower kernels.
"""

import functools
from collections.abc import Iterable
from typing import Any

import jax

import pallas_conv as pc
from pallas_conv import formulations
from pallas_conv.doctor.check import equation
from pallas_conv.doctor.plan import NO_KERNELS, lax_program
from pallas_conv.execution import execute
from pallas_conv.kernels import choice, evidence, support
from pallas_conv.kernels.config import Config
from pallas_conv.kernels.launch import launch
from pallas_conv.spec import Product
from pallas_conv.target import Target
from workloads.cases import Case

from .runner import Program, Row, Source

HOPPER = support.CAPABILITY


def served(case: Case, direction: str) -> bool:
    """Whether a kernel serves it on a Hopper GPU."""
    return direction in case.directions and not support.reasons(case.products()[direction], HOPPER)


def about(product: Product, config: Config, num_sms: int) -> Row:
    """What rows say of a kernel."""
    facts = evidence.facts(product, config)
    return {
        "product": product.to_json(),
        "config": config.to_json(),
        "num_sms": num_sms,
        "facts": facts.to_json(),
        "code_path": facts.code_path,
        "variant": support.variant(product),
    }


def several(facts: Iterable[Row]) -> Row:
    """What rows say of a program that holds several kernels, from the facts of each: the first of a code path and epilogue."""
    found: dict[tuple[str, str], Row] = {}
    for it in facts:
        found.setdefault((it["code_path"], it["epilogue"]), it)
    return {"code_paths": sorted({path for path, _ in found}), "several_facts": list(found.values())} if found else {}


# ------------------------------------------------------------ of a product


def kernel(
    name: str, product: Product, config: Config | None, num_sms: int, interpret: bool = False, question: str = ""
) -> Program:
    """Our kernel, of the product's operands: a list of its outputs. config: None is today's choice."""
    make = functools.partial(_kernel, product, config, num_sms, interpret)
    return Program(f"{name} ours", make, kernel=True, question=question, portable=not interpret)


def _kernel(product: Product, config: Config | None, num_sms: int, interpret: bool) -> Source:
    config = config or choice.choose(product, num_sms)
    run = functools.partial(launch, product, config, num_sms=num_sms, interpret=interpret)
    return Source(run, operands_of(product), about(product, config, num_sms))


def usual(name: str, product: Product) -> Program:
    """What XLA makes of it on the CPU, of the same operands, as a measure of errors: it disturbs nothing on the GPU."""
    return Program(f"{name} usual", functools.partial(_usual, product), on_cpu=True)


def _usual(product: Product) -> Source:
    return Source(functools.partial(_without_kernels, Target("cpu"), product), operands_of(product))


def _without_kernels(target: Target, product: Product, *operands: Any) -> list[jax.Array]:
    return execute(equation(product, ("auto",), NO_KERNELS), target, *operands)


def operands_of(product: Product) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Biases are float32, a residual is of the result's dtype, as `launch` makes them."""
    dtypes = [product.compute_dtype] * 2 + ["float32"] * product.bias + [product.out_dtype] * product.residual
    return tuple(jax.ShapeDtypeStruct(s, d) for s, d in zip(product.operand_shapes, dtypes, strict=True))


# ------------------------------------------------------------ of a layer of the suite


def operands(case: Case, direction: str, on_cpu: bool = False) -> Program:
    """Draws operands for a seed."""
    name = f"{case.name}/{direction} operands{' on the CPU' * on_cpu}"
    return Program(name, functools.partial(_drawn, case, direction), alone=False, on_cpu=on_cpu)


def _drawn(case: Case, direction: str) -> Source:
    return Source(lambda seed: case.arrays(direction, seed), (jax.ShapeDtypeStruct((), "uint32"),))


def stock(case: Case, direction: str) -> Program:
    """What a user of equinox runs today."""
    return Program(f"{case.name}/{direction} stock", functools.partial(_layer, case, direction, None))


def formulation(case: Case, direction: str, target: Target) -> str:
    """The lax program of a product that `auto` takes where no kernel runs."""
    return lax_program(case.products()[direction], target)


def best(case: Case, direction: str, target: Target) -> Program | None:
    """What `auto` runs without kernels, where that is not stock's program."""
    title = f"{case.name}/{direction} best"
    if direction != "fb":
        make = functools.partial(_best, case, direction, target)
        return None if formulation(case, direction, target) == formulations.STOCK else Program(title, make)
    converted = case.stock(direction, convert=pc.convert)
    names = [p.formulation for p in pc.explain(converted, *_shapes(case, direction), device=target)]
    if None in names or set(names) == {formulations.STOCK}:  # None: a kernel that is proven
        return None
    return Program(title, functools.partial(_layer, case, direction, ("auto",)))


def _best(case: Case, direction: str, target: Target) -> Source:
    return Source(case.ours(direction, functools.partial(_without_kernels, target)), _shapes(case, direction))


def ours(
    case: Case, direction: str, num_sms: int, interpret: bool = False, config: Config | None = None, name: str = "ours"
) -> Program:
    """The layer's product by our kernel; of the direction "fb" the converted layer, by kernels where they serve it.

    config: None is today's choice. Several of one layer need several names.
    """
    title = f"{case.name}/{direction} {name}"
    if direction == "fb":
        return Program(title, functools.partial(_step, case, num_sms), kernel=True)
    make = functools.partial(_ours, case, direction, num_sms, interpret, config)
    return Program(title, make, kernel=True, portable=not interpret)


def _layer(case: Case, direction: str, converted: tuple[str, ...] | None) -> Source:
    """As equinox has it, or converted, under a preference."""
    if converted is None:
        return Source(case.stock(direction), _shapes(case, direction))
    f = case.stock(direction, convert=pc.convert)

    def preferring(*operands: jax.Array) -> Any:
        with pc.implementation(converted):
            return f(*operands)

    return Source(preferring, _shapes(case, direction))


def _ours(case: Case, direction: str, num_sms: int, interpret: bool, config: Config | None) -> Source:
    product = case.products()[direction]
    config = config or choice.choose(product, num_sms)

    def run(product: Product, *operands: Any) -> list[Any]:
        return launch(product, config, *operands, num_sms=num_sms, interpret=interpret)

    return Source(case.ours(direction, run), _shapes(case, direction), about(product, config, num_sms))


def _step(case: Case, num_sms: int) -> Source:
    source = _layer(case, "fb", ("mosaic", "auto"))
    by_kernels = [p for d, p in case.products().items() if served(case, d)]
    facts = [evidence.facts(p, choice.choose(p, num_sms)) for p in by_kernels]
    return source._replace(about=several(it.to_json() for it in facts))


def _shapes(case: Case, direction: str) -> tuple[Any, ...]:
    return jax.eval_shape(lambda: case.arrays(direction))
