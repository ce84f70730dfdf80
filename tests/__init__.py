"""Tests. A package so that `tests.torch` is not taken for torch itself."""
