"""Executes, on a CPU, the PTX that Mosaic makes of a Pallas kernel. See README.md; `python -m tests.emulator` runs it."""
