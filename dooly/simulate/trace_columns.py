"""Which column of a trace says what, by the words of its name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from dooly.errors import TraceError
from dooly.simulate.trace_options import TraceOptions

__all__ = ["PREFIX", "Columns", "choose_columns", "listed", "role_of", "unit_in_name"]


def _set(text: str) -> frozenset[str]:
    """Words of a text."""
    return frozenset(text.split())


_PROMPT = _set("prompt input prefill context request query")
_OUTPUT = _set("output completion decode generated generation gen response answer")
_TOKENS = _set("token tokens tok toks len lens length lengths")
_FILLERS = _set("num n number of count seq sequence")
_ABBREVIATED = {"isl": "prompt", "osl": "output"}

_WHEN = _set(
    "arrival arrivals arrived arrive timestamp timestamps time times ts date datetime start started created sent "
    "offset when"
)
_AROUND = _set("at request utc in unix epoch")
_GAPS = _set("delay delays gap gaps inter interarrival iat delta interval")
_OTHER_TIMES = _TOKENS | _set(
    "end ended finish finished elapsed first last latency duration wait queue service completion ttft think response "
    "processing decode prefill zone total"
)

_UNITS = {
    word: unit
    for unit, words in (
        ("s", "s sec secs second seconds"),
        ("ms", "ms msec millis millisecond milliseconds"),
        ("us", "us usec micros microsecond microseconds"),
        ("ns", "ns nsec nanos nanosecond nanoseconds"),
        ("min", "min mins minute minutes"),
        ("h", "h hr hrs hour hours"),
        ("d", "d day days"),
    )
    for word in _set(words)
}

PREFIX = "hash_ids"
"""Key of the ids of the leading blocks of a prompt, as Mooncake and others publish them."""


@dataclass(frozen=True)
class Columns:
    """Names of the columns that are read.

    Attributes:
        arrival: column of arrival times; None where the file has none.
        prompt, output: columns of lengths in tokens.
        prefix: column of prefix ids; None where the file has none.
    """

    arrival: str | None
    prompt: str
    output: str
    prefix: str | None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns, arrival and prefix last."""
        return tuple(name for name in (self.prompt, self.output, self.arrival, self.prefix) if name is not None)


def _words(name: str) -> list[str]:
    """Words of a name in lower case.

    >>> _words("StartTimeOffset"), _words("num_prefill_tokens"), _words("TIMESTAMP")
    (['start', 'time', 'offset'], ['num', 'prefill', 'tokens'], ['timestamp'])
    """
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


def role_of(name: str) -> str | None:
    """``prompt`` or ``output`` for the name of a column of lengths in tokens, ``arrival`` for one of arrival times.

    >>> role_of("ContextTokens"), role_of("output_lens"), role_of("arrived_at"), role_of("num_total_tokens")
    ('prompt', 'output', 'arrival', None)
    """
    words = set(_words(name))
    if len(words) == 1 and (short := _ABBREVIATED.get(min(words))):
        return short
    for role, own in (("prompt", _PROMPT), ("output", _OUTPUT)):
        if words & own and words & _TOKENS and words <= own | _TOKENS | _FILLERS:
            return role
    return "arrival" if words & _WHEN and words <= _WHEN | _AROUND | _UNITS.keys() else None


def unit_in_name(name: str) -> str | None:
    """Unit that the last word of a name states, a key of `UNITS`.

    >>> unit_in_name("arrival_time_ns"), unit_in_name("arrived_at")
    ('ns', None)
    """
    words = _words(name)
    return _UNITS.get(words[-1]) if len(words) > 1 else None


def choose_columns(names: Sequence[str], options: TraceOptions, place: str) -> Columns:
    """Find the columns that say when requests arrive and how long they are.

    Raises:
        TraceError: one is missing, or two could be meant.
    """
    found = f"found: {listed(names)}"
    for given in (options.arrival, options.prompt, options.output):
        if given is not None and given not in names:
            raise TraceError(f"{place}: no column {given!r}; {found}")
    prompt = options.prompt or _only("prompt", names, place)
    output = options.output or _only("output", names, place)
    if prompt is None or output is None:
        missing = " and ".join(role for role, name in (("prompt", prompt), ("output", output)) if name is None)
        raise TraceError(
            f"{place}: no column of {missing} tokens; {found}; read are names such as prompt_tokens,output_tokens, "
            "ContextTokens,GeneratedTokens or input_length,output_length; --trace-option prompt=NAME, output=NAME or "
            "arrival=NAME names others"
        )
    arrival = options.arrival or _arrival(names, place)
    return Columns(arrival, prompt, output, PREFIX if PREFIX in names else None)


def _only(role: str, names: Sequence[str], place: str) -> str | None:
    """The one name of this role; None if there is none."""
    fitting = [name for name in names if role_of(name) == role]
    if len(fitting) > 1:
        raise TraceError(
            f"{place}: columns {listed(fitting)} could all be the {role} column; found: {listed(names)}; "
            f"name one with --trace-option {role}=NAME"
        )
    return fitting[0] if fitting else None


def _arrival(names: Sequence[str], place: str) -> str | None:
    """The column of arrival times, one that only looks like it included; None if nothing looks like one."""
    sure = _only("arrival", names, place)
    if sure is not None:
        return sure
    words = {name: set(_words(name)) for name in names}
    maybe = [name for name in names if words[name] & _WHEN and not words[name] & (_OTHER_TIMES | _GAPS)]
    gaps = [name for name in names if words[name] & _GAPS and not words[name] & _TOKENS]
    if len(maybe) == 1 and not gaps:
        return maybe[0]
    if not maybe and not gaps:
        return None
    told = f"columns {listed(maybe)} could all be the arrival column"
    if gaps:
        told = f"{listed(gaps[:1])} counts from another request, so only serving tells when requests arrive"
    raise TraceError(
        f"{place}: {told}; found: {listed(names)}; read are names such as arrival_s, arrived_at or timestamp; "
        "--trace-option arrival=NAME names another"
    )


def listed(names: Sequence[str]) -> str:
    """Names of columns for one line of a message, the first dozen of many; what cannot be printed is escaped."""
    shown = ["".join(c if c.isprintable() else repr(c)[1:-1] for c in name[:40]) or "(no name)" for name in names[:12]]
    return ", ".join(shown) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
