"""Benchmarks; each prints JSON and names what it measures in its docstring."""
