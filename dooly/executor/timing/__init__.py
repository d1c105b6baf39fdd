"""Stopwatches: of work on the CPU, and of work on a GPU under CUDA graphs."""

__all__: list[str] = []
