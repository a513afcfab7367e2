"""The implementations that may serve a product: names, preferences, and the context that holds the default."""

import contextlib
import threading
from collections.abc import Sequence
from typing import Any

import jax

NAMES = ("auto", "xla", "mosaic", "interpret")

type Implementation = str | tuple[str, ...]

# Part of every cache key of JAX (jit, scan, remat, eager), one value a thread: a contextvar would be invisible to them.
_context = jax.make_user_context(("auto",))


def preferences(implementation: str | Sequence[str] | None) -> tuple[str, ...]:
    """The names in order of preference; None follows the context. Raises ValueError for what is no name."""
    if implementation is None:
        return _context.value
    names = (implementation,) if isinstance(implementation, str) else implementation
    if not isinstance(names, tuple | list) or not names or any(name not in NAMES for name in names):
        raise ValueError(
            f"implementation must be one of {', '.join(map(repr, NAMES))}, a tuple of them in order of preference, or None "
            f"(follow the context); got {implementation!r}"
        )
    return tuple(names)


def implementation(name: str | Sequence[str]) -> contextlib.AbstractContextManager:
    """Context manager: what layers and functions with `implementation=None` use, for traces made inside it.

    **Arguments:**

    - `name`: one of, or a tuple of names in order of preference, decided product by product:
        - `"auto"`: a kernel where it is proven right and no slower on this device, else the best lax program.
        - `"xla"`: exactly the `lax.conv_general_dilated` program of stock equinox.
        - `"mosaic"`: the kernels. Alone it is strict: `UnsupportedError` where a product has none.
        - `"interpret"`: the kernels in Mosaic's interpreter, on any machine, slowly. Alone it is strict, too.

    Functions under `jax.jit` are retraced when the context changes. Per thread; nests.

    **Returns:** a context manager that may be entered many times, also as a decorator.

    **Raises:** `ValueError` for other names.
    """
    if name is None:
        raise ValueError(f"implementation must be one of {', '.join(map(repr, NAMES))} or a tuple of them; got None")
    return _Preferred(preferences(name))


class _Preferred(threading.local, contextlib.ContextDecorator):
    """A context of which every thread has a stack of its own. JAX's own contexts remember one entry, whichever thread's."""

    def __init__(self, names: tuple[str, ...]):
        self._names = names
        self._entered: list[contextlib.AbstractContextManager] = []

    def __enter__(self) -> None:
        context = _context(self._names)
        context.__enter__()
        self._entered.append(context)

    def __exit__(self, *error: Any) -> None:
        self._entered.pop().__exit__(*error)
