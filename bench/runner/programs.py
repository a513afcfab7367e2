"""Compiles programs: kernels lowered in processes and compiled in threads, XLA's own programs one after another.

Choosing a tile and lowering a kernel to Mosaic is Python, about half a second a kernel, and threads would take turns at it.
So other processes, which need no GPU, do it in the background, in the order of the steps; what they make is compiled here,
where the GPU is, without Python. XLA times the algorithms that it chooses from on the GPU: its own programs are compiled while
nothing else is.
"""

import concurrent.futures
import dataclasses
import hashlib
import multiprocessing
import os
import pathlib
import pickle
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from .script import Program, Row, Source

# Cores this process may use, at most 16: more processes would run out of memory.
CORES = min(16, len(os.sched_getaffinity(0)))
KERNEL_CALLS = (
    "mosaic_gpu_v2",
    "mosaic_gpu",
)  # custom calls that JAX does not promise to keep: not needed between versions


class Built(NamedTuple):
    """A compiled program.

    call     the program
    seconds  its compilation took, beside others
    about    what is logged before it is launched
    """

    call: Callable[..., Any]
    seconds: float
    about: Row


class Compiler:
    """Builds programs once each.

    processes  that lower portable programs in the background; 0: all are lowered here
    folder     where these leave them for workers to come
    platform   that they lower for
    alive      is called whenever a program is done
    """

    def __init__(self, processes: int, folder: pathlib.Path, platform: str, alive: Callable[[], object] = lambda: None):
        self.folder, self.platform, self.alive = folder, platform, alive
        self._built: dict[str, Built | Exception] = {}
        self._lowered: dict[str, concurrent.futures.Future[None]] = {}
        self._pool: concurrent.futures.ProcessPoolExecutor | None = None
        if processes:
            fresh = multiprocessing.get_context("spawn")  # a forked CUDA or thread pool would be dead
            self._pool = concurrent.futures.ProcessPoolExecutor(processes, fresh, _start_without_gpu)

    def lower(self, programs: Iterable[Program]) -> None:
        """Start to lower those that other processes can."""
        if self._pool is None:
            return
        for program in dict.fromkeys(programs):
            file = self._file(program)
            if program.portable and program.name not in self._lowered and not file.exists():
                self._lowered[program.name] = self._pool.submit(_lower_to, file, program, self.platform)

    def build(self, programs: Iterable[Program], until: float = float("inf")) -> int:
        """Compile those that are not yet, none after `until`, by `time.monotonic`: how many. A failure is told by `get`."""
        missing = [p for p in dict.fromkeys(programs) if p.name not in self._built]
        alone = [p for p in missing if p.alone and not (p.kernel or p.on_cpu)]
        with concurrent.futures.ThreadPoolExecutor(CORES) as pool:
            done = sum(pool.map(lambda p: self._try(p, until), [p for p in missing if p not in alone]))
        return done + sum(self._try(p, until) for p in alone)

    def get(self, program: Program) -> Built:
        """The program, compiled now if it was not yet."""
        self.build([program])
        found = self._built[program.name]
        if isinstance(found, Exception):
            raise found
        return found

    def has(self, program: Program) -> bool:
        return program.name in self._built

    def keep(self, programs: Iterable[Program]) -> None:
        """Keep only these programs. The others are let go, with their memory."""
        names = {p.name for p in programs}
        self._built = {name: built for name, built in self._built.items() if name in names}

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _try(self, program: Program, until: float) -> bool:
        if time.monotonic() > until:
            return False
        try:
            start = time.perf_counter()
            source = self._source(program)
            call = _lowered(source, program.on_cpu).compile(dict(program.options) or None)
            self._built[program.name] = Built(call, time.perf_counter() - start, dict(source.about))
        except Exception as error:
            self._built[program.name] = error
        self.alive()
        return True

    def _source(self, program: Program) -> Source:
        """The program as another process lowered it, or, if that failed, as it is."""
        try:
            if waiting := self._lowered.get(program.name):
                waiting.result()
            exported, about = pickle.loads(self._file(program).read_bytes())
            return Source(exported.call, exported.in_avals, about)
        except Exception:
            return program.make()

    def _file(self, program: Program) -> pathlib.Path:
        return self.folder / f"{hashlib.sha256(program.name.encode()).hexdigest()[:24]}.lowered"


def _lowered(source: Source, on_cpu: bool) -> Any:
    import jax

    place = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0]) if on_cpu else None
    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place) for a in source.shapes]
    return jax.jit(source.function).lower(*shapes)


def _start_without_gpu() -> None:
    import jax

    jax.config.update("jax_platforms", "cpu")


def _lower_to(file: pathlib.Path, program: Program, platform: str) -> None:
    source = program.make()
    part = file.with_suffix(f".{os.getpid()}")
    part.write_bytes(lower(source, platform))
    part.rename(file)


def lower(source: Source, platform: str) -> bytes:
    """(exported function, about), pickled. JAX's own format needs a package that a GPU machine may not have."""
    import jax
    from jax import export

    allowed = [export.DisabledSafetyCheck.custom_call(name) for name in KERNEL_CALLS]
    exported = export.export(jax.jit(source.function), platforms=[platform], disabled_checks=allowed)(*source.shapes)
    closures: dict[str, Any] = {
        f.name: None for f in dataclasses.fields(exported) if callable(getattr(exported, f.name))
    }
    return pickle.dumps((dataclasses.replace(exported, **closures), dict(source.about)))
