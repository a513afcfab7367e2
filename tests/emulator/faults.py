"""Errors of the emulator: a kernel that is wrong, and a kernel that it does not understand."""

from typing import Self


class Finding(Exception):
    """Something that the emulator found.

    what   in words
    where  the instruction, the warp that executes it, and the line of the Python kernel it comes from
    """

    def __init__(self, what: str, where: str = ""):
        super().__init__(f"{where}: {what}" if where else what)
        self.what, self.where = what, where

    def at(self, where: str) -> Self:
        """The finding with its place, unless it already has one."""
        return self if self.where else type(self)(self.what, where)


class Fault(Finding):
    """The kernel does what the PTX ISA or the CUDA driver leaves undefined or forbids, or it never ends."""


class Unsupported(Finding, NotImplementedError):
    """An instruction, or a form of one, that the emulator does not know: nothing is skipped."""
