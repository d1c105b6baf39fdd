"""Serving on a simulated clock with the engine's own scheduler, or a compact one with the same batches.

Importing this package imports neither torch nor vLLM; `simulate` does when called.
"""

from dooly.engine.settings import EngineSettings
from dooly.simulate.chart import frontier_chart
from dooly.simulate.explore import Candidate, Outcome, Targets, evaluate, frontier
from dooly.simulate.memory import check_compact, kv_blocks
from dooly.simulate.metrics import Distribution, Summary, request_frame, summarize, write_requests
from dooly.simulate.records import RequestRecord, Run, StepRecord, load_run, save_run
from dooly.simulate.simulator import Progress, StepTime, simulate, simulate_fast
from dooly.simulate.synthetic import SHIPPED, TraceFit, fit_trace, read_fit, sample_trace, shipped_trace, write_fit
from dooly.simulate.trace import PREFIX_BLOCK, Trace, TraceRequest
from dooly.simulate.trace_files import read_trace, write_trace
from dooly.simulate.trace_options import TraceOptions

__all__ = [
    "Candidate",
    "Distribution",
    "PREFIX_BLOCK",
    "SHIPPED",
    "EngineSettings",
    "Outcome",
    "Progress",
    "RequestRecord",
    "Run",
    "StepRecord",
    "StepTime",
    "Summary",
    "Targets",
    "Trace",
    "TraceOptions",
    "TraceFit",
    "TraceRequest",
    "check_compact",
    "evaluate",
    "fit_trace",
    "frontier",
    "frontier_chart",
    "kv_blocks",
    "load_run",
    "read_fit",
    "read_trace",
    "request_frame",
    "sample_trace",
    "save_run",
    "shipped_trace",
    "simulate",
    "simulate_fast",
    "summarize",
    "write_fit",
    "write_requests",
    "write_trace",
]
