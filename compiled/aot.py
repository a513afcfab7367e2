"""Compile for a GPU that need not be there, and read what came out.

Targets are descriptions of GPUs, in the folder targets. Compiling needs the CUDA plugin of JAX, but neither GPU nor driver.
"""

import contextlib
import dataclasses
import os
import pathlib
import re
import subprocess
import tempfile
import types
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")  # read when the plugin is loaded

import jax
from jax.experimental import topologies

# The private module in which JAX hashes kernels, see _compiling_anew.
_mosaic: Any
try:
    from jax.experimental.mosaic.gpu import core as _mosaic
except ImportError:
    _mosaic = None

TARGETS = pathlib.Path(__file__).resolve().parent / "targets"
# The environment variable that holds paths of other ptxas, os.pathsep between them. `resources` asks them, too.
FURTHER_PTXAS = "FURTHER_PTXAS"


def sharding(target: str = "h100", count: int = 1) -> jax.sharding.NamedSharding:
    """Replicated over `count` devices of a target."""
    config = (TARGETS / f"{target}.txtpb").read_text()
    topology = topologies.get_topology_desc(platform="cuda", target_config=config, topology=f"1x1x{count}")
    mesh = topologies.make_mesh(topo=topology, mesh_shape=(count,), axis_names=("x",))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


def compile_for(target: str, f: Callable[..., Any], *args: jax.ShapeDtypeStruct) -> jax.stages.Compiled:
    """jit(f) for arguments of these shapes, compiled for a target with the ptxas of JAX's CUDA packages.

    JAX 0.12 asks no ptxas: it compiles with the library nvJitLink of the same packages.
    """
    place = sharding(target)
    with _environment(PATH=_own_ptxas_first(os.environ["PATH"])):  # lowering asks ptxas for its version, once a process
        return jax.jit(f).lower(*(jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place) for a in args)).compile()


def _own_ptxas_first(path: str) -> str:
    """A PATH, where Mosaic looks for ptxas first, that begins with the folder of the ptxas that JAX was installed with."""
    root = os.environ.get("MOSAIC_GPU_CUDA_ROOT")  # set by JAX
    return os.pathsep.join((os.path.join(root, "bin"), path)) if root else path


@dataclasses.dataclass(frozen=True)
class Resources:
    """Resources that the Mosaic kernels of a program use: the most of each, over its kernels and over all ptxas asked.

    registers    a thread
    spills       bytes stored or loaded
    smem_bytes   of a thread block
    log          everything that each ptxas said
    ptx          the kernels in NVIDIA's virtual assembly
    """

    kernels: int
    registers: int
    spills: int
    smem_bytes: int
    log: str
    ptx: str


def resources(target: str, f: Callable[..., Any], *args: jax.ShapeDtypeStruct) -> tuple[jax.stages.Compiled, Resources]:
    """compile_for, with the resources of the Mosaic kernels it compiled on the way.

    Other ptxas, those of FURTHER_PTXAS in the environment, are given the same PTX.
    """
    compiled, dumped = _dumping(("PTX", "PTXAS", "RESOURCES"), target, f, *args)
    logs, ptx, used = dumped(".ptxas"), dumped(".ptx"), dumped(".resources.txt")
    others = [path for path in os.environ.get(FURTHER_PTXAS, "").split(os.pathsep) if path]
    log = "\n".join(logs + [_assembled(path, text) for path in others for text in ptx])
    return compiled, Resources(
        kernels=len(logs),
        registers=max(map(int, re.findall(r"Used (\d+) registers", log))),
        spills=max(map(int, re.findall(r"(\d+) bytes spill", log))),
        smem_bytes=max(map(int, re.findall(r"smem_scratch_bytes=(\d+)", "\n".join(used)))),
        log=log,
        ptx="\n".join(ptx),
    )


def _assembled(ptxas: str, ptx: str) -> str:
    """All that another ptxas says of PTX, given the flags that Mosaic gives its own.

    Raises RuntimeError where it says nothing of registers and spills: PTX is often too new for an older ptxas.
    """
    (arch,) = re.findall(r"^\.target (\w+)", ptx, flags=re.MULTILINE)
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder, "kernel.ptx")
        source.write_text(ptx)
        flags = (f"-arch={arch}", "--warn-on-spills", "-v", "--generate-line-info")
        command = (ptxas, *flags, source, "-o", source.with_suffix(".cubin"))
        said = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout
    if not (re.search(r"Used \d+ registers", said) and re.search(r"\d+ bytes spill", said)):
        raise RuntimeError(f"{ptxas} compiled nothing: {said}")
    return f"{ptxas}:\n{said}"


def instructions(target: str, f: Callable[..., Any], *args: jax.ShapeDtypeStruct) -> str:
    """The text of the one Mosaic kernel of a program: PTX for the GPU, and the host's code, which makes the TMA descriptors and
    launches it.
    """
    _, dumped = _dumping(("PTX", "HOST_LLVM"), target, f, *args)
    (ptx,), (host,) = dumped(".ptx"), dumped(".ll")
    return f"{ptx}\n{host}"


def _dumping(
    kinds: tuple[str, ...], target: str, f: Callable[..., Any], *args: jax.ShapeDtypeStruct
) -> tuple[jax.stages.Compiled, Callable[[str], list[str]]]:
    """compile_for, and a function from a suffix to the files that Mosaic wrote on the way."""
    with tempfile.TemporaryDirectory() as folder:
        dumps = {f"MOSAIC_GPU_DUMP_{kind}": "1" for kind in kinds}
        with _environment(MOSAIC_GPU_DUMP_TO=folder, **dumps), _compiling_anew():
            compiled = compile_for(target, f, *args)
        found = {path.name: path.read_text() for path in sorted(pathlib.Path(folder).iterdir())}
    dumped = lambda suffix: [text for name, text in found.items() if name.endswith(suffix)]
    lowered, read = len(dumped(".resources.txt")), len(dumped(".ptx"))
    if not lowered:
        raise RuntimeError("no Mosaic kernel was lowered for the program")
    if read != lowered:
        raise RuntimeError(f"JAX dumped {read} of {lowered} kernels; of one that it holds compiled it dumps nothing")
    return compiled, dumped


@contextlib.contextmanager
def _compiling_anew() -> Iterator[None]:
    """JAX 0.12 compiles kernels of one hash once a process, and dumps nothing afterwards. So here each has another hash."""
    usual = getattr(_mosaic, "hashlib", None)
    if usual is None:  # what was not compiled before can still be read
        yield
        return
    _mosaic.hashlib = types.SimpleNamespace(sha256=lambda text: usual.sha256(text + os.urandom(16)))
    try:
        yield
    finally:
        _mosaic.hashlib = usual


@contextlib.contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
