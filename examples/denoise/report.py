"""Tables of plans: what `pallas_conv.explain` found, equal lines counted instead of repeated."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

ROLES = (
    "fprop",
    "dgrad",
    "wgrad",
    "bwd",
)  # of products, in this order: forward, input and weight gradient, both gradients


def table(plans: Iterable[Any]) -> str:
    """One line for each program that serves products, with the kernel there is for them, and why it is not taken."""
    plans = list(plans)
    rows = Counter((p.product.role, p.implementation, p.scope, _kernel(p)) for p in plans)
    cells = [("", "product", "served by", "program", "kernel for it")]
    cells += [(f"{count} x", *row) for row, count in sorted(rows.items(), key=lambda item: _order(item[0]))]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if cell.endswith(" x") else cell.ljust(width)
            for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in cells
    ]
    reasons = Counter(reason for plan in plans for reason in plan.reasons)
    if reasons:
        lines.append("Why not a kernel:")
    lines += [f"{f'{count} x':>{widths[0]}}  {reason}" for reason, count in reasons.most_common()]
    return "\n".join(f"  {line}" for line in lines)


def _kernel(plan: Any) -> str:
    if plan.implementation != "xla":
        return "this one"
    return plan.kernel.name if plan.kernel else "none"


def _order(row: tuple[str, ...]) -> tuple[bool, int, tuple[str, ...]]:
    role, implementation, *_ = row
    return implementation == "xla", ROLES.index(role), row
