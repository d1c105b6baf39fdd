"""``python -m tests.fuzz``: try spoiled inputs on whatever dooly reads, and list what ends in a traceback or a hang.

Every input has a number and comes out the same each time: ``--input 4711`` writes that one to stdout.
"""

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

from tests.fuzz.limits import Finding, input_of, run
from tests.fuzz.readers import READERS


def main() -> int:
    """Returns 1 where something was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("reader", nargs="*", choices=[[], *(each.name for each in READERS)], help="default: all")
    parser.add_argument("--inputs", type=int, default=1000, metavar="N", help="of each reader (default: 1000)")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="number of the first (default: 0)")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="at a time (default: 1)")
    parser.add_argument("--input", type=int, metavar="N", help="write the input of this number to stdout, and stop")
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="write the first input of each kind there")
    arguments = parser.parse_args()
    chosen = [each for each in READERS if not arguments.reader or each.name in arguments.reader]
    if arguments.input is not None:
        sys.stdout.buffer.write(input_of(chosen[0], chosen[0].seeds(), arguments.input))
        return 0
    found = 0
    for reader in chosen:
        start, tried, accepted = time.monotonic(), 0, 0
        kinds: Counter[str] = Counter()
        first: dict[str, Finding] = {}
        numbers = range(arguments.first, arguments.first + arguments.inputs)
        for more, fine, finding in run(reader, numbers, arguments.processes):
            tried, accepted = tried + more, accepted + fine
            if finding is not None:
                kinds[finding.kind] += 1
                first.setdefault(finding.kind, finding)
            if sys.stderr.isatty():
                print(f"\r{reader.name}: {tried:,d} inputs, {len(kinds)} kinds", end="", file=sys.stderr)
        seconds = time.monotonic() - start
        print(
            f"{reader.name}: {tried:,d} inputs in {seconds:,.0f} s, {accepted:,d} accepted, {kinds.total():,d} findings"
        )
        for kind, count in kinds.most_common():
            print(f"  {count:6,d} x {kind} (first: --input {first[kind].number})")
            if arguments.output is not None:
                _keep(arguments.output, reader.name, first[kind], input_of(reader, reader.seeds(), first[kind].number))
        found += kinds.total()
    return int(found > 0)


def _keep(folder: Path, reader: str, finding: Finding, data: bytes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{reader}-{finding.number}.input").write_bytes(data)
    (folder / f"{reader}-{finding.number}.txt").write_text(finding.detail, errors="backslashreplace")


if __name__ == "__main__":
    sys.exit(main())
