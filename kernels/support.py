"""What the kernels serve, as data: reasons, names, copies. Imports neither Pallas nor JAX."""

import dataclasses
import functools
import hashlib
import math
import pathlib

from pallas_conv.spec import Product

from . import taps

CAPABILITY = (9, 0)  # wgmma and its shared-memory layouts exist on Hopper only
DTYPES = {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}
ACTIVATIONS = (None, "relu", "gelu", "gelu_tanh", "silu", "tanh", "sigmoid", "leaky_relu")
OUTPUTS = (("y",), ("z",), ("y", "z"))
MAX_KERNEL = 31
MAX_STRIDE = 2
MAX_ELEMENTS = 2**31 - 1


def reasons(product: Product, capability: tuple[int, int] | None) -> tuple[str, ...]:
    """Every reason why no kernel serves a product on a GPU of this compute capability; empty if one does."""
    return (*_device_reasons(capability), *_type_reasons(product), *_geometry_reasons(product), *_size_reasons(product))


def _device_reasons(capability: tuple[int, int] | None) -> list[str]:
    if capability == CAPABILITY:
        return []
    found = "the GPU is unknown" if capability is None else "this GPU has {}.{}".format(*capability)
    return [f"the kernels require compute capability 9.0 (Hopper): {found}"]


def _type_reasons(product: Product) -> list[str]:
    found = []
    if product.role == "wgrad":
        found.append("there is no weight-gradient kernel")
    elif product.role not in ("fprop", "dgrad"):
        found.append(f"there is no kernel for the product {product.role!r}")
    if product.compute_dtype not in ("bfloat16", "float16"):
        found.append(f"operands must be bfloat16 or float16, not {product.compute_dtype}")
    if product.out_dtype not in (product.compute_dtype, "float32"):
        found.append(
            f"the result must be {product.compute_dtype} like the operands, or float32, not {product.out_dtype}"
        )
    if product.activation not in ACTIVATIONS:
        found.append(f"the activation {product.activation!r} is not fused")
    if product.outputs not in OUTPUTS:
        found.append(f"the outputs {product.outputs} are not written: ('y',), ('z',) and ('y', 'z') are")
    if product.role != "fprop" and (product.bias or product.activation or product.outputs != ("y",)):
        found.append("only a forward product has a fused epilogue")
    if product.models is not None:
        found.append("a leading axis of models (an ensemble) is not served")
    return found


def _geometry_reasons(product: Product) -> list[str]:
    spec, found = product.spec, []
    forward = product.role == "fprop"
    if spec.ndim != 2:
        found.append(f"exactly 2 spatial dimensions are served, not {spec.ndim}")
    if spec.groups != 1:
        found.append(f"groups must be 1, not {spec.groups}")
    if product.role == "wgrad":
        return found
    if any(s > 1 for s in (spec.input_dilation if forward else spec.strides)):
        what = "a transposed convolution" if forward else "the input gradient of a strided convolution"
        found.append(f"{what} has one output phase per stride, and output phases are not served")
    strides = spec.strides if forward else spec.input_dilation
    if any(s > MAX_STRIDE for s in strides):
        found.append(f"strides must be 1 or {MAX_STRIDE}, not {strides}")
    if any(k > MAX_KERNEL for k in spec.kernel_spatial):
        found.append(f"the kernel must be at most {MAX_KERNEL} a side, not {spec.kernel_spatial}")
    return found


def _size_reasons(product: Product) -> list[str]:
    spec = product.spec
    padded = [-(-channels // 8) * 8 for channels in (product.in_channels, product.out_channels)]
    strides = spec.strides if product.role == "fprop" else spec.input_dilation
    shapes = {
        "x": (product.batch, product.in_channels, *spec.in_spatial),
        "w": (product.out_channels, product.in_channels // spec.groups, *spec.kernel_spatial),
        "y": (product.batch, product.out_channels, *spec.out_spatial),
    }
    empty = [name for name, shape in shapes.items() if not math.prod(shape)]
    if empty:
        return [f"{name} is empty: its shape is {shapes[name]}" for name in empty]
    most = {  # as the kernel sees them: channels in whole 16 bytes, strided dimensions in whole strides
        "x": product.batch * padded[0] * math.prod(n + s - 1 for n, s in zip(spec.in_spatial, strides, strict=True)),
        "w": math.prod(padded) * math.prod(spec.kernel_spatial),
        "y": product.batch * padded[1] * math.prod(n + s - 1 for n, s in zip(spec.out_spatial, strides, strict=True)),
    }
    return [f"{name} has more than {MAX_ELEMENTS} elements" for name, count in most.items() if count > MAX_ELEMENTS]


def copies(product: Product) -> tuple[str, ...]:
    """The copies of activations that XLA makes around the kernel of a served product, beyond changes of layout."""
    source, result = ("x", "y") if product.role == "fprop" else ("the cotangent", "the input gradient")
    channels = product.in_channels, product.out_channels
    summed, produced = channels if product.role == "fprop" else channels[::-1]
    found = []
    if summed % 8:
        found.append(
            f"{source} and w are padded from {summed} to {-(-summed // 8) * 8} channels: TMA strides are 16 bytes"
        )
    uneven = [i for i, d in enumerate(taps.dims(product)) if d.in_size % d.in_stride]
    if uneven:
        found.append(f"{source} is padded to whole strides in spatial dimensions {uneven}")
    unit = 16 // (4 if product.out_dtype == "float32" else 2)
    if produced % unit:
        found.append(f"{result} is sliced from {-(-produced // unit) * unit} to {produced} channels")
    return tuple(found)


def variant(product: Product) -> str:
    """The key under which trust in a kernel is recorded: kernel, role, rank, dtypes, stride class, epilogue."""
    dtype = DTYPES[product.compute_dtype]
    if product.out_dtype != product.compute_dtype:
        dtype += DTYPES[product.out_dtype]
    strides = [d.in_stride for d in taps.dims(product)]
    stride = "s" + ("x".join(map(str, strides)) if len(set(strides)) > 1 else str(strides[0]))
    return f"dense_{product.role}_{product.spec.ndim}d_{dtype}_{stride}_{_epilogue(product)}"


def _epilogue(product: Product) -> str:
    """The sum alone is not activated, whatever the activation."""
    return dataclasses.replace(product, activation=None).epilogue if product.outputs == ("z",) else product.epilogue


def kernel_name(product: Product) -> str:
    """The kernel's name in a profiler."""
    return f"pallas_conv_{variant(product)}"


@functools.cache
def fingerprint() -> str:
    """Of the kernels' source: what was proven or tuned for another one says nothing about this one."""
    digest = hashlib.sha256()
    for path in sorted(pathlib.Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]
