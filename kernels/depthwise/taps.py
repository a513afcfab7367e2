"""Taps of a tile: how far from an output the pixels lie that they read, and which input rows they join to which output rows."""

import functools
import itertools
from typing import NamedTuple

from ..geometry import TapAxis


class Reach(NamedTuple):
    """The inputs that taps of a dimension read, of all phases: `low` to `low + length`, relative to q * in_stride."""

    low: int
    length: int


def reach(d: TapAxis) -> Reach:
    """The reach of a dimension."""
    moves = [move for p in range(d.out_stride) for move in moves_of(d, p)]
    return Reach(min(moves), max(moves) - min(moves))


def moves_of(d: TapAxis, p: int) -> list[int]:
    """Distances from q * in_stride to what the taps of a phase read."""
    return [d.offset[p] + i * d.tap_stride for i in range(d.count[p])]


class Term(NamedTuple):
    """A tap: the distance along a row from q * in_stride to what it reads, and its place among all taps."""

    move: int
    tap: int


type Key = tuple[int, int]  # of an output row of a tile: its phase, and its number
type RowTerms = dict[tuple[int, int], dict[Key, list[Term]]]


@functools.lru_cache(maxsize=256)
def row_terms(dims: tuple[TapAxis, ...], phases: tuple[tuple[int, ...], ...], rows: int) -> RowTerms:
    """(plane, row) of every input row of a tile -> (phase, output row) of every sum that it is added to -> its taps.

    rows: output rows of the tile. A plane counts from the first that an output plane reads: all have the same.
    """
    planes, lines, columns = dims
    (first_plane, more_planes), (first_line, more_lines) = reach(planes), reach(lines)
    at = list(itertools.product(range(more_planes + 1), range((rows - 1) * lines.in_stride + more_lines + 1)))
    found: RowTerms = {where: {} for where in at}
    for (phase, p), out in itertools.product(enumerate(phases), range(rows)):
        first = [d.first[n] for d, n in zip(dims, p, strict=True)]
        reads = enumerate(moves_of(planes, p[0])), enumerate(moves_of(lines, p[1]))
        for (i, plane), (j, line) in itertools.product(*reads):
            row_of_taps = ((first[0] + i) * len(lines.order) + first[1] + j) * len(columns.order) + first[2]
            terms = [Term(move, row_of_taps + k) for k, move in enumerate(moves_of(columns, p[2]))]
            if terms:
                found[plane - first_plane, out * lines.in_stride + line - first_line][phase, out] = terms
    return found
