"""The problem of this family: those of its blocks as the depthwise kernel sees them, in turn."""

from ..depthwise.plan import Problem

type Problems = tuple[Problem, ...]
