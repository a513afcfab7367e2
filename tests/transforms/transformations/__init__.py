"""Every transformation of JAX as a function of a layer's calls and of data: `CASES`, by name."""

from . import batching, control, devices, forward, higher, registry, reverse

ORDER = (batching, reverse, higher, forward, control, devices)
CASES: dict[str, registry.Case] = {
    name: case for room in ORDER for name, case in registry.REGISTERED.items() if case.__module__ == room.__name__
}
