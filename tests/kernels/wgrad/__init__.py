"""Tests of the weight-gradient family, a file for each of its own or for what they do together."""
