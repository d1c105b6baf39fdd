"""vLLM's API server as a user starts it (`vllm serve`), and vLLM's own client (`vllm bench serve`) beside it.

Importing this module imports neither torch nor vLLM.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dooly.engine.settings import model_folder, one_line
from dooly.errors import SimulationError
from dooly.files import read_text

__all__ = ["Server", "serving", "write_tokenizer"]

SERVED_NAME = "served"
_PATIENCE_S = 600.0
_GOODBYE_S = 20.0
_SAMPLE = re.compile(r"^(?:vllm:(?=\w)|(?=process_cpu_seconds_total ))(\w+)(\{[^}]*\})? (\S+)$", re.MULTILINE)
_RAISED = re.compile(r"(^|[\])] )(\w+\.)*\w*(Error|Exception): |: error: ")
"""An exception's own line in a log, with what logging puts in front of it."""
_LABEL = re.compile(r'(\w+)="([^"]*)"')


class Server:
    """A server that answers.  Made by `serving`.

    Attributes:
        url: its address.
        folder: the model's, with the tokenizer.
        start_s: seconds until it answered.
        process_id: of the process that answers; the engine core is its child.
    """

    def __init__(self, url: str, folder: Path, start_s: float, process_id: int) -> None:
        self.url, self.folder, self.start_s, self.process_id = url, folder, start_s, process_id

    def counts(self) -> defaultdict[str, float]:
        """Its counters by name without ``vllm:``, over all labels: prompt tokens, prefix-cache hits, preemptions, ...

        Of histograms the sum and the number of samples.  ``process_cpu_seconds`` is the API server's own process.
        """
        counts: defaultdict[str, float] = defaultdict(float)
        for name, _, value in _SAMPLE.findall(self._metrics()):
            if name.endswith(("_total", "_sum", "_count")):
                counts[name.removesuffix("_total")] += float(value)
        return counts

    def counts_since(self, before: Mapping[str, float]) -> dict[str, float]:
        """Counts since `before`, by name, without those that stayed the same."""
        return {
            name: round(value - before.get(name, 0.0), 6)
            for name, value in self.counts().items()
            if value != before.get(name, 0.0)
        }

    def cache(self) -> dict[str, str]:
        """Facts of the KV cache by name: number and size of blocks, prefix caching, ..."""
        labels = next(
            (labels for name, labels, _ in _SAMPLE.findall(self._metrics()) if name == "cache_config_info"), ""
        )
        return dict(_LABEL.findall(labels))

    def bench(self, options: Mapping[str, str | None]) -> dict[str, Any]:
        """The result of `vllm bench serve` with these options, each request's own times included.

        Args:
            options: by vLLM's name without dashes in front; None for a flag.

        Raises:
            SimulationError: the client refuses the options, or a request fails.
        """
        from vllm.benchmarks import serve as client
        from vllm.utils.argparse_utils import FlexibleArgumentParser

        given = {
            "backend": "openai",
            "base-url": self.url,
            "endpoint": "/v1/completions",
            "model": SERVED_NAME,
            "tokenizer": str(self.folder),
            "save-detailed": None,
            "disable-tqdm": None,
            **options,
        }
        words = [word for name, value in given.items() for word in (f"--{name}", value) if word is not None]
        parser: Any = FlexibleArgumentParser()
        client.add_cli_args(parser)
        with _silent():
            try:
                result = client.main(parser.parse_args(words))
            except (Exception, SystemExit) as error:  # its own checks, and those of its parser
                raise SimulationError(f"vLLM's client refuses {' '.join(words)}: {one_line(error)}") from error
        if (failed := len(result["ttfts"]) - result["completed"]) or not result["completed"]:
            why = next((line for each in result["errors"] if each for line in reversed(each.splitlines()) if line), "")
            raise SimulationError(f"{failed} of {len(result['ttfts'])} requests failed: {why}")
        return result

    def _metrics(self) -> str:
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=30) as answer:
            return answer.read().decode()


@contextmanager
def serving(
    model: str | Path, flags: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None
) -> Generator[Server]:
    """Run `vllm serve` with these flags, in processes of its own, while the `with` block lasts.

    Args:
        model: folder with config.json, or that file.
        flags: as a user gives them after the model.
        folder: empty; the model is copied there, with a tokenizer if it has none, and the server's log is written.
        environment: variables to add to those of this process.

    Raises:
        SimulationError: no config.json, or the server does not start.
    """
    source, copy = model_folder(model), folder / "model"
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("*.safetensors", "*.bin", "*.pt"))
    write_tokenizer(copy)
    port = _free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(copy), "--port", str(port)]
    command += ["--served-model-name", SERVED_NAME, "--disable-uvicorn-access-log", *flags]
    start = time.perf_counter()
    log = folder / "server.log"
    with open(log, "wb") as written:
        process = subprocess.Popen(
            command,
            env={**os.environ, **(environment or {})},
            stdout=written,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _await_health(url, process, log)
            yield Server(url, copy, time.perf_counter() - start, process.pid)
        finally:
            _end(process)


def write_tokenizer(folder: Path) -> None:
    """Give a model that has none a tokenizer of its vocabulary: one word a token, so that prompts keep their lengths.

    All words are of one length: the end-of-sequence word is looked for anywhere in a text, so where it is the beginning
    of others (t1 of t10, t100, ...), a third of all random prompts becomes the same, and the prefix cache serves them.
    One word is longer: the server refuses texts of more characters than its longest word has, times a model's length.
    """
    if (folder / "tokenizer.json").exists() or (folder / "tokenizer.model").exists():
        return
    from tokenizers import Tokenizer, models, pre_tokenizers

    config = json.loads(read_text(folder / "config.json"))
    vocabulary = int(config.get("text_config", config)["vocab_size"])
    digits = len(str(vocabulary - 1))
    words = ["unknown".rjust(digits + 2, "-"), *(f"t{token:0{digits}}" for token in range(1, vocabulary))]
    tokenizer: Any = Tokenizer(models.WordLevel({word: token for token, word in enumerate(words)}, unk_token=words[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": words[0], "eos_token": words[1]}
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "model_max_length": 1 << 20}))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await_health(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Wait until the server answers.

    Raises:
        SimulationError: it has ended, or does not answer for ten minutes.
    """
    end = time.perf_counter() + _PATIENCE_S
    while time.perf_counter() < end:
        if process.poll() is not None:
            raise SimulationError(f"`vllm serve` does not start: {_complaint(log)}")
        try:
            urllib.request.urlopen(f"{url}/health", timeout=2).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise SimulationError(f"`vllm serve` does not answer after {_PATIENCE_S:.0f} s: {_complaint(log)}")


def _complaint(log: Path) -> str:
    """The first line of the log that names an error, or its last line."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    named = [line for line in lines if _RAISED.search(line)]
    return " ".join((named or lines[-1:] or ["its log is empty"])[0].split())[:300]


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End the server and what it has started."""
    for each in (signal.SIGINT, signal.SIGKILL):
        try:
            os.killpg(process.pid, each)
            process.wait(_GOODBYE_S)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


@contextmanager
def _silent() -> Generator[None]:
    """Throw away what is printed meanwhile: vLLM's client talks to stdout, where results of commands go."""
    sys.stdout.flush()
    kept = os.dup(1)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        try:
            yield
        finally:
            sys.stdout.flush()
            os.dup2(kept, 1)
            os.close(kept)
