"""expand-opaque (placeholder until capture lands)."""
from dataclasses import dataclass
from typing import ClassVar
from dooly.ir import Program
@dataclass(frozen=True)
class ExpandOpaque:
    name: ClassVar[str] = "expand-opaque"
    def run(self, program: Program, /) -> Program:
        return program
