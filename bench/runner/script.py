"""Scripts, as the runner takes them: steps, the programs they need, arguments and a summary."""

import argparse
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from .worker import Context

type Row = dict[str, Any]

BAD = ("wrong", "error", "hung", "crashed")
LOSSES = ("hung", "crashed")  # each took a worker with it
SKIPPED = "skipped: "
OUT_OF_TIME = SKIPPED + "out of time"


class Source(NamedTuple):
    """A function before it is compiled.

    function  to be jitted
    shapes    of its arguments: jax.ShapeDtypeStruct or arrays
    about     JSON that is logged before a launch: at least "code_path" and "config" of a kernel
    """

    function: Callable[..., Any]
    shapes: tuple[Any, ...]
    about: Mapping[str, Any] = {}


@dataclasses.dataclass(frozen=True)
class Program:
    """A program that steps need compiled. Two of the same name are the same program.

    name      of it in a run
    make      () -> Source
    kernel    holds a kernel of ours, which may hang or crash: refused after what `Limits` allows
    question  what a kernel is to answer, if others ask the same: they are likely to be lost for the same reason
    alone     compiled while nothing else is, since XLA times the algorithms that it chooses from. Not for kernels
    on_cpu    compiled for the CPU, whatever else there is
    portable  can be lowered where there is no GPU: `make` is then called in another process, so it must be a function of a
              module, or a functools.partial of one with picklable arguments
    options   of the compiler: {"xla_gpu_enable_triton_gemm": False}
    """

    name: str
    make: Callable[[], Source] = dataclasses.field(compare=False)
    kernel: bool = False
    question: str = ""
    alone: bool = True
    on_cpu: bool = False
    portable: bool = False
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict, compare=False)


@dataclasses.dataclass(frozen=True)
class Step:
    """Some work, and the rows it yields. They take its kind and name, and status "ok" unless they say otherwise.

    programs  programs that it asks its context for; they are compiled before its time starts
    seconds   without a sign of life after which it is taken to hang; None: `Limits.step`
    again     taken a second time if a kernel of ours is lost in it: it then measures the rest. It must launch kernels by
              `Context.launch`, which refuses that one, or look for it in the rows
    """

    kind: str
    name: str
    work: Callable[["Context"], Iterable[Row]]
    programs: tuple[Program, ...] = ()
    seconds: float | None = None
    again: bool = False


def _nothing(parser: argparse.ArgumentParser) -> None:
    """Adds no arguments."""


@dataclasses.dataclass(frozen=True)
class Script:
    """A script over the runner.

    module      its name: `python -m <module>` starts its workers
    doc         of it; the first line is shown by --help
    steps       options -> its steps, the same list in every worker; the row of the device comes before them by itself
    summary     rows -> what is printed at the end
    arguments   adds the script's own to a parser; the words --dry-run and the like are the runner's
    incomplete  rows -> what is missing, beyond steps that were out of time, or ""
    minutes     after which it starts nothing, unless --minutes says otherwise
    """

    module: str
    doc: str
    steps: Callable[[argparse.Namespace], list[Step]]
    summary: Callable[[list[Row]], str]
    arguments: Callable[[argparse.ArgumentParser], None] = _nothing
    incomplete: Callable[[list[Row]], str] = lambda rows: ""
    minutes: float = 9.0

    @property
    def name(self) -> str:
        """The last word of the module: the beginning of the names of its files."""
        return self.module.rpartition(".")[2]


class Skipped(Exception):
    """Raised by a step, or by its context, that is not to be taken: why."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """Seconds, but for the last two.

    step     without a sign of life, until a step is taken to hang: kernels take milliseconds
    compile  the same while programs are compiled
    start    from a worker's start to its first step
    spare    no step starts with less time left than this
    grace    after the end, until a worker that is not done is killed
    least    that a worker has to start and say what is skipped, whatever the time
    retry    before a worker that failed at the start is started again
    losses   hung or crashed kernels, of so many code paths and questions, after which no kernel is run any more; of one
             question, after which no other of that is
    ahead    steps whose programs are compiled together, those of one kind
    """

    step: float = 15
    compile: float = 120
    start: float = 150
    spare: float = 4
    grace: float = 25
    least: float = 20
    retry: float = 10
    losses: int = 3
    ahead: int = 32
