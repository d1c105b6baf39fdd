"""A load that a server is measured under: random prompts, in a closed loop or at a rate."""

from dataclasses import dataclass

from dooly.errors import SimulationError

__all__ = ["Load"]


@dataclass(frozen=True)
class Load:
    """Requests that one run of `vllm bench serve` sends.

    Attributes:
        name: of letters, digits and underscores.
        input_tokens, output_tokens: mean lengths.
        requests: number of them.
        range_ratio: lengths are uniform within this share of the mean, either side; 0 for all alike.
        concurrency: most requests under way at once; None for no limit.
        rate: mean arrivals per second; None for all at once.

    Raises:
        SimulationError: a value makes no sense.
    """

    name: str
    input_tokens: int
    output_tokens: int
    requests: int
    range_ratio: float = 0.0
    concurrency: int | None = None
    rate: float | None = None

    def __post_init__(self) -> None:
        numbers = self.input_tokens, self.output_tokens, self.requests, self.concurrency or 1
        if not self.name.isidentifier() or min(numbers) < 1:
            raise SimulationError(f"load {self.name!r}: expected a word as name, and numbers of 1 or more")
        if not 0.0 <= self.range_ratio < 1.0 or (self.rate is not None and self.rate <= 0.0):
            raise SimulationError(f"load {self.name}: expected a range_ratio from 0 to below 1 and a rate above 0")

    def options(self, seed: int, prefix: str) -> dict[str, str | None]:
        """Options of `vllm bench serve` by name; ids of requests begin with `prefix`."""
        chosen: dict[str, str | None] = {
            "dataset-name": "random",
            "random-input-len": str(self.input_tokens),
            "random-output-len": str(self.output_tokens),
            "random-range-ratio": str(self.range_ratio),
            "num-prompts": str(self.requests),
            "request-rate": "inf" if self.rate is None else str(self.rate),
            "seed": str(seed),
            "request-id-prefix": prefix,
            "ignore-eos": None,
            "temperature": "0",
        }
        if self.concurrency is not None:
            chosen["max-concurrency"] = str(self.concurrency)
        return chosen
