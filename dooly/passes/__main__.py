"""``python -m dooly.passes``: capture models or read their IR, run passes, print the result."""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from dooly.errors import DoolyError
from dooly.escape import show
from dooly.files import write_text
from dooly.hardware.gpus import PLATFORMS
from dooly.ir import Graph, Program, parse_program, read_program
from dooly.passes import PIPELINE, Pass, run, select

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; results go to stdout, talk to stderr.  Returns the exit status: 0, or 2 for bad input."""
    try:
        return _main(_arguments().parse_args(argv))
    except DoolyError as error:
        show(f"dooly: error: {error}", file=sys.stderr)
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except OSError as error:
        show(f"dooly: error: {error.filename or 'standard output'}: {error.strerror}", file=sys.stderr)
    return 2


class _Arguments(argparse.ArgumentParser):
    """Usage errors are one line like all others."""

    def error(self, message: str) -> NoReturn:
        raise DoolyError(f"{message} (see --help)")


def _arguments() -> argparse.ArgumentParser:
    parser = _Arguments(
        prog="python -m dooly.passes",
        description="Dump the annotated IR of models, or one deduplicated table of operations for several.",
        epilog="example: python -m dooly.passes llama-3.1-8b --tp 4 -p annotate-shapes,propagate-taint",
    )
    parser.add_argument(
        "model", nargs="*", help="bundled name, config.json or its folder, .ir file, or - for IR on stdin"
    )
    parser.add_argument("-p", "--passes", metavar="NAMES", help="passes to run, separated by commas (default: all)")
    parser.add_argument("-o", "--output", metavar="FILE", help="write the result there instead of stdout")
    parser.add_argument("--print-after", metavar="NAME|all", help="also print the program after this pass, to stderr")
    parser.add_argument(
        "--time-passes", action="store_true", help="print seconds of capture and of each pass to stderr"
    )
    parser.add_argument("--tp", type=int, default=1, metavar="N", help="tensor-parallel size (default: 1)")
    parser.add_argument("--dp", type=int, default=1, metavar="N", help="data-parallel size of a mixture (default: 1)")
    parser.add_argument("--expert-parallel", action="store_true", help="a rank holds whole experts, not slices")
    parser.add_argument("--pp", type=int, default=1, metavar="N", help="pipeline stages (default: 1)")
    parser.add_argument("--platform", choices=tuple(PLATFORMS), default="cpu", help="what the engine sees (default: cpu)")
    parser.add_argument("--backend", metavar="NAME", help="attention backend (default: the engine's choice)")
    parser.add_argument("--quantization", choices=("fp8",), help="quantize the weights while they are loaded (GPUs)")
    parser.add_argument("--kv-cache-dtype", choices=("fp8",), help="element type of the KV cache (GPUs)")
    parser.add_argument("--eager", action="store_true", help="what runs without compilation (default: compiled)")
    parser.add_argument(
        "--frontend",
        choices=("vllm", "export"),
        default="vllm",
        help="whose model: the engine's, or the one of transformers through torch.export (default: vllm)",
    )
    parser.add_argument("--list", action="store_true", help="list passes and bundled models")
    return parser


def _main(args: argparse.Namespace) -> int:
    if args.list:
        return _list()
    if not args.model:
        raise DoolyError("name a model, a config.json or an .ir file; --list shows the bundled models")
    passes = PIPELINE if args.passes is None else select(args.passes)
    if args.print_after not in (None, "all", *(each.name for each in passes)):
        raise DoolyError(f"--print-after {args.print_after}: not among the passes {', '.join(p.name for p in passes)}")
    program = _load(args)
    program = run(program, passes, lambda each, result, seconds: _report(args, each, result, seconds))
    for operation in program.operations:
        if operation.status == "unsupported":
            show(f"no rule knows {operation.target} (x {operation.count}): it has no cost here", file=sys.stderr)
    if len(program.graphs) > 1 and program.operations:
        show(_summary(program), file=sys.stderr)
        program = replace(program, graphs=())
    if args.output:
        write_text(args.output, str(program))
    else:
        sys.stdout.write(str(program))
        sys.stdout.flush()
    return 0


def _list() -> int:
    from dooly.capture import list_models

    for each in PIPELINE:
        summary = next(line.strip() for line in (each.__doc__ or "").splitlines() if line.strip())
        show(f"{each.name:18} {summary}")
    show("")
    show("\n".join(list_models()))
    return 0


_OF_CAPTURE = (
    "tp",
    "dp",
    "expert_parallel",
    "pp",
    "platform",
    "backend",
    "quantization",
    "kv_cache_dtype",
    "eager",
    "frontend",
)
"""Options that say how a model is captured."""


def _load(args: argparse.Namespace) -> Program:
    """All models in one program; the same graph twice is one."""
    parts: list[Program] = []
    for model in args.model:
        if model == "-":
            parts.append(_stdin())
        elif model.endswith(".ir"):
            parts.append(read_program(Path(model)))
        else:
            parts.append(Program(_capture(model, args)))
    program = Program.joined(parts)
    if all(model == "-" or model.endswith(".ir") for model in args.model):
        from dooly.capture import check_read

        usual = _arguments()
        given = {name: getattr(args, name) for name in _OF_CAPTURE}
        check_read(program.graphs, {name: value for name, value in given.items() if value != usual.get_default(name)})
    return program


def _stdin() -> Program:
    try:
        return parse_program(sys.stdin.read())
    except UnicodeDecodeError as error:
        raise DoolyError(f"standard input: not UTF-8 text (byte {error.start})") from None


def _capture(model: str, args: argparse.Namespace) -> tuple[Graph, ...]:
    from dooly.capture import Options, Parallel, capture_checked, check, export_checked, load_engine

    parallel = Parallel(args.tp, args.dp, args.expert_parallel, args.pp)
    options = Options(parallel, args.platform, args.backend, args.quantization, args.kv_cache_dtype, args.eager)
    exported = args.frontend == "export"
    if exported and options != Options():
        raise DoolyError("--frontend export has no engine: leave out --tp, --platform, --backend and the like")
    name, config = check(model, options)
    start = time.perf_counter()
    load_engine(args.platform)
    loaded = time.perf_counter()
    graphs = (export_checked(name, config),) if exported else capture_checked(name, config, options)
    if args.time_passes:
        show(f"{loaded - start:8.3f} s  import of torch and vLLM", file=sys.stderr)
        show(f"{time.perf_counter() - loaded:8.3f} s  capture {name}", file=sys.stderr)
    return graphs


def _report(args: argparse.Namespace, each: Pass, result: Program, seconds: float) -> None:
    if args.time_passes:
        show(f"{seconds:8.3f} s  {each.name}", file=sys.stderr)
    if args.print_after in ("all", each.name):
        show(f"# after {each.name}\n{result}", file=sys.stderr)


def _summary(program: Program) -> str:
    total = sum(operation.count for operation in program.operations)
    lines = [f"{len(program.operations)} distinct operations for {total} in {len(program.graphs)} models:"]
    for graph in program.graphs:
        mine = program.for_model(graph.name)
        lines.append(f"  {graph.name}: {len(mine)} distinct, {sum(op.count for op in mine)} in a step")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
