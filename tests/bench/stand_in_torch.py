"""A stand-in for the part of PyTorch that `bench.torch_gpu` asks of a GPU. It counts time: every kernel takes what it says."""

import math
import sys
import types

TAKES = {"convolution": 2.0, "gradient": 3.0, "elementwise": 0.5, "gemm": 1.0}  # milliseconds


class Tensor:
    dtype = "bfloat16"

    def __init__(self, gpu, shape, layout=None):
        self.gpu, self.shape, self.ndim, self.layout = gpu, tuple(shape), len(shape), layout

    def like(self, *_, **__):
        return self

    to = detach = requires_grad_ = reshape = swapaxes = flip = like

    def numel(self):
        return math.prod(self.shape)

    def contiguous(self, memory_format=None):
        return Tensor(self.gpu, self.shape, memory_format)

    def __truediv__(self, scale):
        return self

    def __neg__(self):
        return self.gpu.launch("elementwise", self)

    def __matmul__(self, other):
        return self.gpu.launch("gemm", self)


class Gpu:
    """Counts time, and what was launched while a profiler looked; `drops` of those records it loses."""

    def __init__(self, drops=0):
        self.now, self.seen, self.drops, self.layouts = 0.0, [], drops, set()

    def launch(self, kernel, result):
        event = types.SimpleNamespace(name=kernel, device_type="CUDA", is_user_annotation=False, start=self.now)
        event.time_range = types.SimpleNamespace(start=self.now, elapsed_us=lambda: 1e3 * TAKES[kernel])
        self.now += TAKES[kernel]
        self.seen.append(event)
        return result

    def convolution(self, x, w, *_):
        self.layouts |= {x.layout, w.layout}
        return self.launch("convolution", x)

    def gradient(self, y, leaves, dy, retain_graph=False):
        found = leaves if isinstance(leaves, list) else [leaves]
        return [self.launch("gradient", leaf) for leaf in found]

    def profile(self, activities, acc_events):
        assert activities == ["CUDA"]
        gpu = self

        class Session:
            def __enter__(self):
                gpu.seen.clear()
                return self

            def __exit__(self, *_):
                self.found = gpu.seen[gpu.drops :]

            def events(self):
                host = types.SimpleNamespace(name="host", device_type="CPU", is_user_annotation=False)
                return [*reversed(self.found), host]

        return Session()


class Event:
    def __init__(self, gpu):
        self.gpu = gpu

    def record(self):
        self.at = self.gpu.now

    def synchronize(self):
        pass

    def elapsed_time(self, end):
        return end.at - self.at


def module(gpu):
    """The module, and its functional part."""
    cudnn = types.SimpleNamespace(version=lambda: 91900)
    torch = types.SimpleNamespace(
        __version__="2.11.0", version=types.SimpleNamespace(cuda="13.0"), bfloat16="bfloat16", float32="float32",
        channels_last="NHWC", channels_last_3d="NDHWC", contiguous_format="contiguous",
        backends=types.SimpleNamespace(cudnn=cudnn, cuda=types.SimpleNamespace(matmul=types.SimpleNamespace())),
        cuda=types.SimpleNamespace(Event=lambda enable_timing: Event(gpu), synchronize=lambda: None),
        Generator=lambda device: types.SimpleNamespace(manual_seed=lambda seed: None),
        inference_mode=lambda: lambda f: f, autograd=types.SimpleNamespace(grad=gpu.gradient),
    )  # fmt: skip
    for name in ("zeros", "ones", "randn"):
        setattr(torch, name, lambda shape, **_: Tensor(gpu, (shape,) if isinstance(shape, int) else shape))
    relu = lambda x: gpu.launch("elementwise", x)
    names = [f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3)]
    functional = types.SimpleNamespace(**dict.fromkeys(names, gpu.convolution), relu=relu, silu=relu)
    return torch, functional


def install(monkeypatch, torch_layers, gpu):
    """Put the stand-in in the place of PyTorch."""
    torch, functional = module(gpu)
    parts = {
        "torch": torch,
        "torch.autograd": types.SimpleNamespace(DeviceType=types.SimpleNamespace(CUDA="CUDA")),
        "torch.profiler": types.SimpleNamespace(
            ProfilerActivity=types.SimpleNamespace(CUDA="CUDA"), profile=gpu.profile
        ),
    }
    for name, part in parts.items():
        monkeypatch.setitem(sys.modules, name, part)
    for name, value in (("torch", torch), ("F", functional), ("INSTALLED", True)):
        monkeypatch.setattr(torch_layers, name, value, raising=False)
    return torch
