"""Provenance checked by a second method: what capture derives as expressions, witnesses confirm in plain numbers.

Capture derives every dimension by symbolic execution; nothing is fitted.  Here the same model is built from plain
numbers, at its own configuration and at random others, with other ranks, depths and batches; every operation that then
runs is noted and compared with the graph.  ``verify_provenance`` imports torch and vLLM only when called.
"""

from dooly.provenance.compare import Counterexample
from dooly.provenance.report import Report, verify_module, verify_provenance

__all__ = ["Counterexample", "Report", "verify_module", "verify_provenance"]
