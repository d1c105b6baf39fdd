"""Ways to spoil an input: of texts of the IR by their tokens, of JSON by its values, of anything by its bytes."""

import json
import re
from collections.abc import Callable, Sequence
from copy import deepcopy
from random import Random
from typing import Any

__all__ = ["Mutator", "change_bytes", "change_ir", "change_json", "change_size", "change_text", "one_of"]

Mutator = Callable[[Random, Sequence[bytes]], bytes]
"""A new input from the seeds; equal random numbers give equal inputs."""


def one_of(*weighted: tuple[int, Mutator]) -> Mutator:
    """One of several mutators, each as often as its weight says."""

    def mutate(random: Random, seeds: Sequence[bytes]) -> bytes:
        (chosen,) = random.choices([each for _, each in weighted], [weight for weight, _ in weighted])
        return chosen(random, seeds)

    return mutate


def change_bytes(random: Random, seeds: Sequence[bytes]) -> bytes:
    """Bytes cut out, repeated, moved, flipped and put in; a part of another seed."""
    data = bytearray(random.choice(seeds))
    for _ in range(random.choice((1, 1, 2, 4, 8))):
        start = random.randrange(len(data) + 1)
        part = slice(start, start + random.choice((0, 1, 2, 8, 64, 1024)))
        how = random.randrange(5)
        if how == 0:
            del data[part]
        elif how == 1:
            data[start:start] = data[part]
        elif how == 2 and start < len(data):
            data[start] ^= 1 << random.randrange(8)
        elif how == 3:
            data[part] = random.choice((b"\x00", b"\xff\xfe", b"\x1b[31m", b'"', b"\n", b"9" * 50, b"-", b"{", b"]"))
        else:
            other = random.choice(seeds)
            at = random.randrange(len(other) + 1)
            data[start:start] = other[at : at + 64]
    return bytes(data)


# --- texts of rows ---------------------------------------------------------------------------------------------------

_CELLS = (
    *("NaN", "1e999", "-1", '""', "null", "true", "[]", "{}", "9" * 30, "0.0", "10.0", "inf", "²", "", "1e25"),
    *("\n", ",", ";", "\t", '"', "\0", "#", "\r", "\u2028", "\x1b[31m", "{", "]", "=1+1"),
    *("timestamp", "delay", "arrival_s", "prompt_tokens", "hash_ids", "output_len", "start_times"),
    *("2023-11-16 18:15:46", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"),
)


def change_text(random: Random, seeds: Sequence[bytes]) -> bytes:
    """Words and numbers of a text replaced by others that a table may hold, lines moved and left out."""
    text = random.choice(seeds).decode(errors="replace")
    for _ in range(random.choice((1, 1, 2, 4))):
        words = list(re.finditer(r"[A-Za-z_]+|[\d.]+", text))
        if words and random.random() < 0.7:
            word = random.choice(words)
            text = text[: word.start()] + random.choice(_CELLS) + text[word.end() :]
        else:
            lines = text.split("\n")
            random.shuffle(lines)
            text = "\n".join(lines[: random.randint(1, len(lines))])
    return text.encode(errors="replace")


# --- texts of the IR ----------------------------------------------------------------------------------------------

_TOKEN = re.compile(r'"(?:[^"\\\n]|\\.)*"|%?[\w.]+|\s+|->|//|\*\*|.', re.DOTALL)
_SYMBOLS = ("A", "D", "H", "I", "L", "Nkv", "Nl", "Nq", "T", "TP", "V")
_NUMBERS = (
    "0",
    "1",
    "2",
    "3",
    "7",
    "64",
    "4096",
    "-1",
    "1.5",
    "1e3",
    "0.0",
    "inf",
    "nan",
    "9223372036854775807",
    "9" * 29,
)
_VALUES = (
    "none",
    "true",
    "[]",
    "[1, 2]",
    '""',
    '"x"',
    '"\\u001b[31m"',
    '"\\ud800"',
    '"a\\nb"',
    "-0.0",
    "[[[]]]",
    "1e308",
)
_TYPES = ("bf16", "f32", "i64", "bool", "f8e4m3", "i65")
_SWEEP = ("nodes", "captured", "free")


def change_ir(targets: Sequence[str], passes: Sequence[str]) -> Mutator:
    """Mutator of IR texts.

    Args:
        targets: names of operations, put in the place of others.
        passes: names of passes; the first line of an input is a remark that says which of them are to run.
    """

    def mutate(random: Random, seeds: Sequence[bytes]) -> bytes:
        text = random.choice(seeds).decode()
        if random.random() < 0.7:
            text = _uncounted(text)
        for _ in range(random.choice((1, 1, 1, 2, 3, 5, 9))):
            text = random.choice((_change_lines, _change_tokens, _change_tokens, _change_sizes))(random, text, targets)
        chosen = passes if random.random() < 0.5 else random.sample(passes, random.randint(1, len(passes)))
        return f"# -p {','.join(chosen)}\n{text}".encode(errors="surrogatepass")

    return mutate


def _uncounted(text: str) -> str:
    """The text with no captured node, so that operations can go and come without breaking the count."""
    text = re.sub(r" nodes \d+(?:-\d+)?(?:, \d+(?:-\d+)?)*", "", text)
    return re.sub(r"^\s*free .*\n", "", re.sub(r"captured \d+", "captured 0", text), flags=re.MULTILINE)


def _change_lines(random: Random, text: str, _: Sequence[str]) -> str:
    lines = text.split("\n")
    first, second = random.randrange(len(lines)), random.randrange(len(lines))
    how = random.randrange(3)
    if how == 0:
        del lines[first]
    elif how == 1:
        lines.insert(second, lines[first])
    else:
        lines[first], lines[second] = lines[second], lines[first]
    return "\n".join(lines)


def _change_tokens(random: Random, text: str, targets: Sequence[str]) -> str:
    tokens = _TOKEN.findall(text)
    words = [at for at, token in enumerate(tokens) if not token.isspace()]
    if not words:
        return text
    at, other = random.choice(words), random.choice(words)
    token, how = tokens[at], random.randrange(6)
    if how == 0:
        tokens[at] = ""
    elif how == 1:
        tokens[at] = token + " " + token
    elif how == 2:
        tokens[at], tokens[other] = tokens[other], token
    elif token.startswith("%"):
        tokens[at] = random.choice([each for each in tokens if each.startswith("%")])
    elif token.startswith('"') or token in ("true", "false", "none"):
        tokens[at] = random.choice(_VALUES)
    elif token.isdigit():
        tokens[at] = random.choice((*_NUMBERS, *_VALUES, expression(random, 2)))
    elif token in _TYPES:
        tokens[at] = random.choice(_TYPES)
    elif "." in token or token in targets:
        tokens[at] = random.choice(targets)
    else:
        tokens[at] = random.choice((random.choice(tokens), random.choice(_SYMBOLS), random.choice(_NUMBERS)))
    return "".join(tokens)


def _change_sizes(random: Random, text: str, _: Sequence[str]) -> str:
    """Another shape for a type, or another expression for a size."""
    types = list(re.finditer(r"\b(?:bf16|f32|i64|i32|f16)\[([^\[\]]*)\]", text))
    if not types:
        return text
    chosen = random.choice(types)
    dims = chosen[1].split(", ") if chosen[1] else []
    how = random.randrange(4)
    if how == 0 and dims:
        del dims[random.randrange(len(dims))]
    elif how == 1:
        dims.insert(random.randint(0, len(dims)), random.choice((*_SYMBOLS, "1", "64")))
    elif how == 2 and dims:
        dims[random.randrange(len(dims))] = expression(random, random.choice((1, 2, 3, 3, 5, 8)))
    else:
        dims = random.choice(types)[1].split(", ")
    return f"{text[: chosen.start(1)]}{', '.join(dims)}{text[chosen.end(1) :]}"


def expression(random: Random, depth: int) -> str:
    """A size by the grammar of the IR; at great depth larger than any that is read."""
    if depth == 0 or random.random() < 0.25:
        return random.choice(_SYMBOLS) if random.random() < 0.7 else random.choice(_NUMBERS)
    how = random.randrange(9)
    parts = [expression(random, depth - 1) for _ in range(random.choice((2, 2, 3, 5)))]
    if how == 0:
        return f"{random.choice(('max', 'min'))}({', '.join(parts)})"
    if how == 1:
        return f"({parts[0]})**{random.choice((2, 3, 16, 17))}"
    if how == 2:
        return f"-({parts[0]})"
    sign = random.choice((" + ", " - ", "*", "*", "/", "//", "//"))
    return sign.join(part if random.random() < 0.5 else f"({part})" for part in parts)


def change_size(random: Random, seeds: Sequence[bytes]) -> bytes:
    """A size by the grammar, sometimes spoiled in its bytes."""
    text = expression(random, random.choice((1, 2, 3, 4, 5, 6))).encode()
    return change_bytes(random, [text, *seeds]) if random.random() < 0.2 else text


# --- JSON ---------------------------------------------------------------------------------------------------------

_JSON: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 7, 64, 10**6, 2**63, -(10**30), 10**400, 0.5, -0.0, 1e308, float("nan")),
    *(float("inf"), "", "x", "=1+1", "\x1b[31m", "\ud800", "9" * 400, "[red]", "a\nb", [], {}, [[]], [1, "2", None]),
    *({"a": {}}, [1.5] * 3, {"format": 1}),
)


def change_json(random: Random, seeds: Sequence[bytes]) -> bytes:
    """Values exchanged, dropped, repeated and renamed somewhere inside; sometimes text that is deeper than allowed."""
    if random.random() < 0.01:
        return b"[" * 100_000
    document = json.loads(random.choice(seeds))
    for _ in range(random.choice((1, 1, 1, 2, 3, 5))):
        places = _places(document)
        if not places:
            break
        holder, key = random.choice(places)
        other, source = random.choice(places)
        how = random.randrange(7)
        if how == 0:
            del holder[key]
        elif how == 1:
            holder[key] = json.loads(json.dumps(other[source]))
        elif how == 2 and isinstance(holder, dict):
            holder[random.choice([k for h, k in places if isinstance(h, dict)])] = holder.pop(key)
        elif how == 3 and isinstance(holder, list):
            holder.insert(key, deepcopy(holder[key]))
        elif isinstance(holder[key], str) and random.random() < 0.5:
            holder[key] = change_bytes(random, [holder[key].encode(errors="surrogatepass")]).decode(errors="replace")
        elif isinstance(holder[key], int | float) and random.random() < 0.5:
            holder[key] = _other_number(random, holder[key])
        else:
            holder[key] = deepcopy(random.choice(_JSON))
    return json.dumps(document).encode()


def _other_number(random: Random, number: float) -> float:
    try:
        return random.choice((-number, number + 1, number * 2, number // 2, number * 10**6, number * 0.99, 0))
    except OverflowError:
        return 0


def _places(document: Any) -> list[tuple[Any, Any]]:
    """Every value inside, as the list or object that holds it and its place there."""
    found: list[tuple[Any, Any]] = []
    pending = [document]
    while pending:
        each = pending.pop()
        keys = list(each) if isinstance(each, dict) else list(range(len(each))) if isinstance(each, list) else []
        found += [(each, key) for key in keys]
        pending += [each[key] for key in keys]
    return found
