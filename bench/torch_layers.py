"""The suite's layers in PyTorch, where it is installed: a column of `make bench`, channels first, and of hardware runs."""

import importlib.metadata
import importlib.util
import os
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from workloads.cases import OPERANDS, Case

INSTALLED = importlib.util.find_spec("torch") is not None
VERSION = importlib.metadata.version("torch") if INSTALLED else None
if INSTALLED:
    # The threads of GNU's OpenMP spin for some 8 ms after PyTorch used them: on two cores, XLA's next 8 ms take 1.5 times as
    # long. A thirtieth of that still keeps them awake between the steps of a layer. It is read when the library is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    import torch
    import torch.nn.functional as F

SETTLE = 1e-3  # seconds: more than those threads spin
PAD_MODES = {"ZEROS": "constant", "CIRCULAR": "circular", "REFLECT": "reflect", "REPLICATE": "replicate"}


def program(case: Case, direction: str, operands: Iterable[Any]) -> Callable[..., list[Any]] | None:
    """The program of a direction on these operands. It ignores its arguments. None where PyTorch has no such program.

    Its results are tensors in the order of stock's; `arrays` makes them comparable.
    """
    if not INSTALLED or case.per_example:
        return None
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    given = zip(OPERANDS[direction], operands, strict=True)
    run = bound(case, direction, {name: _tensor(case, name, a) for name, a in given})
    try:
        run()
    except RuntimeError:
        if case.dtype == "float32":
            raise
        return None  # not in this precision
    return run


def settle() -> None:
    """Wait until PyTorch's threads have left the cores."""
    until = time.perf_counter() + SETTLE
    while time.perf_counter() < until:  # a sleep would let the core go cold
        pass


def arrays(case: Case, direction: str, results: Iterable[Any]) -> list[np.ndarray]:
    """The results of a program as stock's are laid out, in float32."""
    names = {"f": "y", "d": "x", "w": "w", "fb": "y" + _leaves(case)}[direction]
    as_stock = lambda name, t: weights(case, t) if name == "w" else t  # the exchange is its own inverse
    return [as_stock(name, t).detach().float().numpy() for name, t in zip(names, results, strict=True)]


def bound(
    case: Case, direction: str, given: dict[str, Any], place: Callable[[Any], Any] = lambda t: t
) -> Callable[..., list[Any]]:
    """A direction on these tensors, the weights as `weights` lays them out; `place` puts a tensor where and as they are."""
    if direction == "f":

        @torch.inference_mode()
        def forward(*_: Any) -> list[Any]:
            return [_activated(case, _linear(case, **given))]

        return forward

    dy = given.pop("y")
    if direction == "fb":
        leaves = [given[name].requires_grad_() for name in _leaves(case)]

        def step(*_: Any) -> list[Any]:
            y = _activated(case, _linear(case, **given))
            return [y, *torch.autograd.grad(y, leaves, dy)]

        return step

    wanted = {"d": "x", "w": "w"}[direction]
    zeros = torch.zeros(case.shapes()[wanted], dtype=dy.dtype)
    leaf = place(weights(case, zeros) if wanted == "w" else zeros)
    y = _linear(case, **given, **{wanted: leaf.requires_grad_()})  # once: the gradients are of a linear function
    return lambda *_: list(torch.autograd.grad(y, leaf, dy, retain_graph=True))


def _leaves(case: Case) -> str:
    return "xwb" if "d" in case.directions else "wb"


def _linear(case: Case, x: Any, w: Any, b: Any = None) -> Any:
    symmetric = all(lo == hi for lo, hi in case.padding)
    padding: Any = [lo for lo, _ in case.padding]
    if case.transposed:
        assert symmetric, f"{case.name}: PyTorch pads transposed convolutions alike on both sides"
        f = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[case.ndim - 1]
        return f(x, w, b, case.stride, padding, case.output_padding or 0, case.groups, case.dilation)
    if case.padding_mode != "ZEROS" or not symmetric:
        x = F.pad(x, [n for pair in reversed(case.padding) for n in pair], PAD_MODES[case.padding_mode])
        padding = 0
    f = (F.conv1d, F.conv2d, F.conv3d)[case.ndim - 1]
    return f(x, w, b, case.stride, padding, case.dilation, case.groups)


def _activated(case: Case, y: Any) -> Any:
    return {None: lambda z: z, "relu": F.relu, "silu": F.silu}[case.activation](y)


def _tensor(case: Case, name: str, a: Any) -> Any:
    t = torch.from_numpy(np.array(a, "float32")).to(getattr(torch, case.dtype))  # NumPy's bfloat16 is not PyTorch's
    return weights(case, t) if name == "w" else t


def weights(case: Case, w: Any) -> Any:
    """Stock's weights as PyTorch has them."""
    return _exchanged(w, case.groups) if case.transposed else w


def _exchanged(w: Any, groups: int) -> Any:
    """A transposed convolution's kernel between (O, C / groups, k) and PyTorch's (C, O / groups, k), which is flipped."""
    grouped = w.reshape(groups, w.shape[0] // groups, *w.shape[1:]).swapaxes(1, 2)
    return grouped.reshape(groups * w.shape[1], -1, *w.shape[2:]).flip(*range(2, w.ndim)).contiguous()
