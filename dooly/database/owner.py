"""Who holds a claim, and whether that process still exists."""

import json
import os
import socket
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["LEASE_S", "Owner"]

LEASE_S = 900.0
"""A claim of another host lapses after this many seconds.  One point takes seconds, so this is generous."""


@dataclass(frozen=True)
class Owner:
    """A process that claims points.

    Fields:
        host: host name and process-number space, within which `pid` means something.
        boot: identifies the running of that host; a claim from before a reboot is void.
        start: when the process began, so that a recycled pid is not taken for the same process.
    """

    host: str
    boot: str
    pid: int
    start: str

    @classmethod
    def here(cls) -> "Owner":
        """This process."""
        pid = os.getpid()
        return cls(_host(), _boot(), pid, _start_of(pid) or "")

    @classmethod
    def from_json(cls, text: str) -> "Owner":
        """Inverse of `json`."""
        fields = json.loads(text)
        return cls(str(fields["host"]), str(fields["boot"]), int(fields["pid"]), str(fields["start"]))

    @property
    def json(self) -> str:
        """Canonical text, compared as a whole when a claim is taken over."""
        return json.dumps(asdict(self), sort_keys=True)

    def is_gone(self, claimed_s: float) -> bool:
        """Whether a claim made at `claimed_s` (seconds since the epoch) may be taken over."""
        if self.host != _host():
            return time.time() - claimed_s > LEASE_S
        return self.boot != _boot() or _start_of(self.pid) != self.start


def _host() -> str:
    try:
        return f"{socket.gethostname()}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _start_of(pid: int) -> str | None:
    """Start time of a living process in the platform's own form; None if there is none (a zombie counts as none)."""
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else fields[19]
    answer = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return answer.stdout.strip() or None
