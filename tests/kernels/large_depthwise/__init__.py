"""Tests of the large-kernel depthwise family, a file for each of its own or for what they do together."""
