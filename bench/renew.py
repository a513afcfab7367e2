"""Let records of hardware runs hold for the present source and JAX, if their kernels compile to the same: python -m bench.renew

Without a GPU: every kernel that a record lists (one for each code path and epilogue found right) is compiled, and its
instructions are compared with those that ran (see bench.instructions). Where all are equal the record gains a source; where one
differs it needs a hardware run.

Exit status 1 if any record does not hold. --check changes no file; --list compiles nothing and says which hold as they are.
"""

import argparse
import pathlib
import sys

import jax
from tqdm import tqdm

from pallas_conv.dispatch import record
from pallas_conv.dispatch.record import SAME_INSTRUCTIONS, Record, Source
from pallas_conv.kernels import digest

from . import instructions
from .record import kernel_of


def differing(found: Record) -> list[str]:
    """The code paths and epilogues of a record whose kernels compile to other instructions than those that ran."""
    ran = ((kernel_of(found, p.product, p.config, p.num_sms), p.digest) for p in found.programs)
    return [
        f"{kernel.facts.code_path}, {kernel.facts.epilogue}"
        for kernel, digest_then in tqdm(ran, total=len(found.programs), unit="kernel", disable=None)
        if instructions.digest(kernel) != digest_then
    ]


def renewed(found: Record) -> tuple[Record, list[str]]:
    """The record with the present source if nothing differs, and what differs. A record without programs proves nothing."""
    if not found.programs:
        return found, ["it lists no kernels to compare"]
    others = differing(found)
    source = Source(jax.__version__, digest.code(found.family), SAME_INSTRUCTIONS)
    return (found if others else found.with_source(source)), others


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.renew", description=__doc__.partition("\n")[0])
    parser.add_argument("records", nargs="*", type=pathlib.Path, help="files (all that are shipped)")
    parser.add_argument("--check", action="store_true", help="change no file")
    parser.add_argument("--list", action="store_true", help="compile nothing: which records hold as they are")
    args = parser.parse_args(argv)
    files, status = args.records or sorted(record.SHIPPED.glob("*/*.json")), 0
    if not files:
        print("there are no records: none is shipped before a hardware run")
    for path in files:
        found = record.load(path)
        code = digest.code(found.family)
        if found.holds_for(jax.__version__, code):
            print(f"{path.name}: holds for JAX {jax.__version__} and kernels {code}")
            continue
        if args.list:
            print(f"{path.name}: does not hold for JAX {jax.__version__} and kernels {code}: run python -m bench.renew")
            continue
        found, others = renewed(found)
        if others:
            status = 1
            print(f"{path.name}: DOES NOT HOLD for JAX {jax.__version__} and kernels {code}:", *others, sep="\n  ")
            continue
        print(
            f"{path.name}: all {len(found.programs)} kernels are equal, so it holds for JAX {jax.__version__}, {code}"
        )
        if not args.check:
            record.save(found, path)
    return status


if __name__ == "__main__":
    sys.exit(main())
