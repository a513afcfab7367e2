"""A program prepared for execution: runs of register instructions become Python functions, the rest finds its function."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from . import memory_map
from .expressions import Expressions
from .instructions import EFFECTS
from .ptx import Program


class Straight(NamedTuple):
    """Unguarded register instructions one after the other, up to `stop`, and the registers they touch."""

    function: Callable
    stop: int
    touched: frozenset[int]


class Single(NamedTuple):
    """One register instruction, and the registers it writes."""

    function: Callable
    targets: list[int]


class Kernel:
    def __init__(self, program: Program):
        self.program = program
        self.symbols = {name: memory_map.of_parameter(i) for name, i in program.params.items()}
        end = memory_map.STATIC_BASE
        for name, (alignment, size) in program.shared.items():
            self.symbols[name] = -(-end // alignment) * alignment
            end = self.symbols[name] + size
        self.static_bytes = end - memory_map.STATIC_BASE

        self.touched = [frozenset(inst.slots()) for inst in program.insts]
        self.branches = [inst.op in ("bra", "bra.uni") for inst in program.insts]
        self._compile()
        self.effects: list[Callable | None] = []
        for inst, single, branch in zip(program.insts, self.singles, self.branches, strict=True):
            found = None if single or branch else EFFECTS.find(inst.op)
            if not (single or branch or found):
                raise inst.unsupported()
            self.effects.append(found[0] if found else None)
        self.read = self._registers_read()
        self.multiplies_registers = any(  # A of a wgmma may be in registers, and in shared memory
            inst.op.startswith("wgmma.mma_async") and isinstance(inst.args[1], tuple) for inst in program.insts
        )
        self._passed_by_all_paths: list[int] = []

    def _compile(self) -> None:
        """`singles` and `straights` of the instructions that only touch registers."""
        insts, made = self.program.insts, Expressions(self.symbols)
        statements = [made.statement(inst) for inst in insts]
        source = [f"def single_{i}(R,S): {s}" for i, s in enumerate(statements) if s is not None]
        spans = list(self._spans(statements))
        for start, stop in spans:
            body = "\n ".join(s for s in statements[start:stop] if s is not None)
            source.append(f"def straight_{start}(R,S):\n {body}")
        names: dict[str, Any] = made.names
        exec("\n".join(source), names)
        self.singles: list[Single | None] = [None] * len(insts)
        self.straights: list[Straight | None] = [None] * len(insts)
        for i, inst in enumerate(insts):
            if statements[i] is not None:
                self.singles[i] = Single(names[f"single_{i}"], list(inst.slots(inst.args[:1])))
        for start, stop in spans:
            touched = frozenset().union(*self.touched[start:stop])
            self.straights[start] = Straight(names[f"straight_{start}"], stop, touched)

    def _spans(self, statements: list[str | None]) -> Iterator[tuple[int, int]]:
        """Spans of at least two unguarded register instructions, which nothing branches into the middle of."""
        insts, start = self.program.insts, 0
        while start < len(insts):
            stop = start
            while (
                stop < len(insts)
                and statements[stop] is not None
                and insts[stop].pred is None
                and (stop == start or stop not in self.program.entries)
            ):
                stop += 1
            if stop - start > 1:
                yield start, stop
            start = max(stop, start + 1)

    def _registers_read(self) -> set[int]:
        """Registers that any instruction reads. A load into others is a load that nobody looks at."""
        read: set[int] = set()
        for inst, single in zip(self.program.insts, self.singles, strict=True):
            writes_first = single is not None or inst.parts[0] in ("ld", "ldmatrix")
            read.update(inst.slots([*inst.args[writes_first:], inst.pred]))
        return read

    def join_of(self, branch: int) -> int:
        """The place where lanes that a branch parts meet again: its immediate post-dominator, on every path from it."""
        count = len(self.program.insts)
        if not self._passed_by_all_paths:
            self._passed_by_all_paths = self._post_dominators()
        after = self._passed_by_all_paths
        candidates = (i for i in range(count) if i != branch and after[branch] >> i & 1)
        return max(candidates, key=lambda i: after[i].bit_count())

    def _post_dominators(self) -> list[int]:
        """The post-dominators of every instruction, as bits of an integer, by iteration to the fixed point."""
        insts, count = self.program.insts, len(self.program.insts)
        after, changed = [(1 << count) - 1] * count, True
        while changed:
            changed = False
            for i in reversed(range(count)):
                inst = insts[i]
                following = [] if inst.op == "ret" else [inst.target] if inst.target >= 0 else [i + 1]
                if inst.pred is not None:
                    following.append(i + 1)
                common = (1 << count) - 1 if following else 0
                for j in following:
                    common &= after[j]
                if (new := common | 1 << i) != after[i]:
                    after[i], changed = new, True
        return after
