"""Runs a list of steps on a GPU that may hang, crash or run out of time: one process works, another watches.

A script is a list of steps, its own arguments and a summary of rows:

    def measure(context):                                       # the work of a step: yields rows
        y = context.launch(PROGRAM, *operands, impl="ours")     # logged before: in the row, should it hang
        call = context.compiled(PROGRAM).call                   # the program itself, compiled before the step's time started
        yield {"ms": time(call)}                                # a row: gets kind, name, status "ok" and t

    def steps(options): return [Step("time", "a/f", measure, programs=(PROGRAM,)), ...]
    def summary(rows): return "..."                             # at most 11,000 characters are printed
    def arguments(parser): parser.add_argument("--cases", default="")

    SCRIPT = Script("bench.tune", __doc__, steps, summary, arguments)
    if __name__ == "__main__":
        sys.exit(runner.main(SCRIPT))

`Program(name, make, kernel, portable)` is what a step needs compiled: `make()` gives `Source(function, shapes, about)`.
`kernel=True` marks one of ours, which may hang; `portable=True` one that another process can lower, with no GPU: `make` is
then a function of a module, or a `functools.partial` of one. `bench.products` has the programs of a case of the suite.

What a script gets for it
- Every row is appended to a file of JSON lines at once (--out, else $OUT, else bench/results/). `context.log.rows` are those
  of the run so far, also from before a restart, so a step may build on rows: a peak, what is still to be timed.
- A step that gives no sign of life for 15 s (`Limits.step`, `Step.seconds`) is killed, and a row says what it was: the seed,
  and what `context.launch` or `context.alive` said last. The work goes on in a new process with the next step, or with what
  is left of this one (`Step.again`). So does it after a crash, and after an error that took the CUDA context down.
- `context.compiled` raises Skipped for a kernel whose code path hung or crashed before, for every kernel after three of
  different code paths, and for those of a question (`Program.question`) after three of that. Of probes, which have no code
  path, only the last holds. A step that does not catch it becomes a row "skipped: why"; one that does can go on with what is
  not ours.
- Programs of the next 32 steps of a kind are compiled before the first of them: kernels side by side, XLA's own one by one.
  A restart compiles little: lowered kernels and JAX's compilation cache, which keeps Mosaic's programs too, are on disk.
- Steps that do not fit into --minutes become rows "skipped: out of time". The summary comes last.

Every script has --dry-run (the same steps on the CPU, small: `context.dry`), --minutes, --out, --only, --in-process, --commit.
The exit status is 0, 1 if a row is "wrong", "error", "hung" or "crashed", 2 without a GPU, 3 if something is missing.

Rows of the runner itself, in every script:

    run      "arguments", first. "worker": one that did not reach its first step. "device lost": a kernel took the context down
    device   device_kind, platform, compute_capability, sms, devices, driver, gpu (clocks and power), jax, date, python,
             versions (of packages of JAX and CUDA), xla_flags, code and choice (digests of the kernels' source, by family),
             commit, changed
    compile  "<number of programs>_from_<kind>_<name>": programs, seconds

and of a step that hung or crashed: exception, tail (the last lines it wrote), and what was said before the launch.
"""

from .command import INCOMPLETE as INCOMPLETE
from .command import checked as checked
from .command import main as main
from .command import parse as parse
from .device import gpu as gpu
from .programs import Built as Built
from .script import BAD as BAD
from .script import OUT_OF_TIME as OUT_OF_TIME
from .script import SKIPPED as SKIPPED
from .script import Program as Program
from .script import Row as Row
from .script import Script as Script
from .script import Skipped as Skipped
from .script import Source as Source
from .script import Step as Step
from .worker import Context as Context
