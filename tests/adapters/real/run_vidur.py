"""Runs the adapter as a user does and prints, as JSON, every step that Vidur asked for with the time it was told.

python run_vidur.py STEPS.json [flags of Vidur]
"""

import json
import sys
from importlib import import_module

from dooly.adapters.vidur import __main__ as adapter
from dooly.adapters.vidur.register import native_lineage


def main() -> int:
    module = "vidur._native.entities" if native_lineage() else "vidur.entities"
    entity = import_module(module).ExecutionTime
    from dooly.adapters.vidur import slots

    asked: list[tuple[list[tuple[int, int]], float]] = []
    fields = slots.Slots.fields

    def spy(self: slots.Slots, requests: list[tuple[int, int]]) -> tuple[float, ...]:
        answer = fields(self, requests)
        asked.append((requests, entity(*answer).total_time))
        return answer

    slots.Slots.fields = spy
    status = adapter.main(sys.argv[1:])
    print("STEPS " + json.dumps(asked))
    return status


if __name__ == "__main__":
    sys.exit(main())
