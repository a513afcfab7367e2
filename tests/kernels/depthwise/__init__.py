"""Tests of the depthwise family, a file for each of its own or for what they do together."""
