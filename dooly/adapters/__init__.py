"""Step times for other people's schedulers and simulators: thin shims on `dooly.predict`.

None of them knows a latency of its own.  `serving` answers what a scheduler or a router asks; `vidur` runs inside
Vidur's process; the other modules write the files that a simulator reads.
"""

from dooly.adapters.serving import Forecast, Load

__all__ = ["Forecast", "Load"]
