"""Turns an equation into a program: platform and mesh, its block on each device, the products of one device."""

from .lower import register as register
