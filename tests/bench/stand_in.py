"""A script over the runner whose kernels hang, crash and are wrong: `python -m tests.bench.stand_in`. No GPU is asked for."""

import functools
import os
import sys
import time

import jax
import jax.numpy as jnp

from bench import runner
from bench.runner import Program, Source, Step


def source(path, config):
    return Source(lambda x: 2 * x, (jax.ShapeDtypeStruct((4,), "float32"),), {"code_path": path, "config": config})


def kernel(name, path):
    return Program(name, functools.partial(source, path, {"of": name}), kernel=True, portable=True)


def launch(context, program):
    return context.launch(program, jnp.ones(4, "float32"))


def right(context, program):
    yield {"status": "ok" if float(launch(context, program)[0]) == 2 else "wrong"}


def hangs(context, program):
    launch(context, program)
    time.sleep(100)
    yield {}


def crashes(context, program):
    launch(context, program)
    os.abort()
    yield {}


def wrong(context, program):
    launch(context, program)
    yield {"status": "wrong"}


def beside(context, program, seconds=0):
    """Times what is not ours in any case."""
    try:
        launch(context, program)
        time.sleep(seconds)
        yield {"impl": "ours"}
    except runner.Skipped as why:
        yield {"impl": "ours", "status": f"{runner.SKIPPED}{why}"}
    yield {"impl": "stock", "ms": 1.0}


def patient(context):
    for _ in range(3):
        time.sleep(0.6 * context.limits.step)
        context.alive()
    yield {}


def steps(options):
    def step(kind, name, work, path, **how):
        program = kernel(name, path)
        return Step(kind, name, functools.partial(work, program=program), (program,), **how)

    found = [
        Step("peak", "patient", patient),
        step("correctness", "right", right, "a"),
        step("correctness", "hangs", hangs, "b"),
        step("correctness", "same_path", right, "b"),
        step("correctness", "crashes", crashes, "c"),
        step("correctness", "wrong", wrong, "d"),
        step("correctness", "still_right", right, "a"),
        step("correctness", "hangs_beside", functools.partial(beside, seconds=100), "e", again=True),
        step("correctness", "never_run", right, "f"),
        step("time", "beside", beside, "a"),
        Step("peak", "last", lambda context: [{"gbps": 1.0}]),
    ]
    return found[: options.most]


SCRIPT = runner.Script(
    "tests.bench.stand_in",
    __doc__,
    steps,
    lambda rows: f"{len(rows)} rows",
    lambda parser: parser.add_argument("--most", type=int, default=100),
)

if __name__ == "__main__":
    sys.exit(runner.main(SCRIPT))
