"""The machine: GPUs, processors, topology, installed software, and the environments that measured points are kept in.

Its modules are imported by name, since half of them are needed by command lines that load nothing heavy.
"""

__all__: list[str] = []
