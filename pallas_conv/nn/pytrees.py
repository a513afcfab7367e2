"""One level of a pytree: the children of a node."""

from collections.abc import Callable
from typing import Any

import jax.tree_util as jtu


def children(node: Any) -> tuple[list[tuple[tuple, Any]], Any]:
    """The children of a node with their keys, and its structure; none for a leaf."""
    found, structure = jtu.tree_flatten_with_path(node, is_leaf=lambda other: other is not node)
    return ([], structure) if jtu.treedef_is_leaf(structure) else (found, structure)


def map_children(f: Callable[[Any], Any], node: Any) -> Any:
    """The node with its children mapped; the node itself if that changes none."""
    found, structure = children(node)
    mapped = [f(child) for _, child in found]
    if all(new is old for new, (_, old) in zip(mapped, found, strict=True)):
        return node
    return structure.unflatten(mapped)
