"""A compact scheduler of our own that composes the same batches as vLLM's, for sweeps over many configurations.

It covers what a plain decoder needs: first come first served, prefill in chunks or whole, one kind of full attention,
prefix caching, preemption of the youngest, synchronous and asynchronous scheduling.  Tests hold it to the engine's
scheduler.

Why it is fast: running requests that only decode are not visited.  All of them gain one token in a step, so a request
is kept as what it had *before step 0*; how many of them need a new block depends on the step number modulo the block
size, and who is done in which step is known when a request starts to decode.
"""

from __future__ import annotations

import heapq
from collections import defaultdict, deque
from dataclasses import dataclass
from functools import partial
from itertools import count

from dooly.batch import StepBatch
from dooly.engine.settings import EngineSettings
from dooly.simulate.block_pool import Block, BlockPool
from dooly.simulate.compact_batch import NEVER, CompactBatch, add_up
from dooly.simulate.scheduling import TokenEvent
from dooly.simulate.trace import TraceRequest

__all__ = ["CompactScheduler", "CompactStep"]


class _Request:
    """One request.

    Attributes:
        prompt, limit: prompt tokens and output tokens.
        done: tokens with a KV entry; once it decodes, what that was before step 0, so that step n finds done + n.
        known: output tokens that the scheduler has been told of (kept up only while it does not decode).
        kept: leading tokens whose full blocks were cached when its prompt was complete, or with the last chunk.
        first, last: steps in which it decodes; NEVER if it does not.
        scheduled: step of its last chunk of prompt.
        stale: the step under way whose token belongs to a time before it was preempted; NEVER if there is none.
        owed: whether that step brings a token.
        named: blocks under keys that it uses, from its first block on.
        turn: of its entry among the longest decoding requests.
    """

    __slots__ = (
        "done", "first", "hit", "kept", "keys", "known", "last", "limit", "name", "named", "owed", "own", "preemptions",
        "prompt", "scheduled", "stale", "turn",
    )  # fmt: skip

    def __init__(self, name: str, prompt: int, limit: int, keys: list[int], own: int) -> None:
        self.name, self.prompt, self.limit, self.keys, self.own = name, prompt, limit, keys, own
        self.done = self.known = self.kept = self.hit = self.preemptions = 0
        self.first = self.last = self.scheduled = self.stale = self.turn = NEVER
        self.named: list[Block] = []
        self.owed = False

    def key(self, block: int) -> int:
        """Cache key of the request's `block`-th KV block."""
        return self.keys[block] if block < len(self.keys) else self.own + block

    def tokens(self, step: int) -> int:
        """With a KV entry before this step."""
        return self.done if self.first == NEVER else self.done + min(step, self.last + 1)


@dataclass(slots=True)
class CompactStep:
    """One step: its batch (None if empty), whose prompt or output it completes, and who lost their blocks."""

    batch: StepBatch | None
    prefilled: list[_Request]
    finishing: list[_Request]
    preempted: list[_Request]


class CompactScheduler:
    """Composes batches under given settings; the interface is that of `EngineScheduler`.

    Attributes:
        depth: how many batches may be under way at once.
        decoding: how many requests decode.
    """

    def __init__(self, settings: EngineSettings) -> None:
        self.depth = 2 if settings.async_scheduling else 1
        self._settings, self._size = settings, settings.block_size
        self._pool = BlockPool(settings.blocks)
        self._waiting: deque[_Request] = deque()
        self._running: list[_Request] = []
        self._under_way: deque[int] = deque()
        self._stale: defaultdict[int, list[_Request]] = defaultdict(list)
        self._step = 0
        self._flush = self._settled = False
        self._turns = count()
        self._next_key = 0
        self._prefixes: dict[tuple[int, tuple[int, ...]], int] = {}
        # Of the requests that decode: their tokens before step 0, by step that opens a block, by last.
        self.decoding = self._tokens = self._changes = 0
        self._opening = [0] * self._size
        self._last: defaultdict[int, list[_Request]] = defaultdict(list)
        self._longest: list[tuple[int, int, _Request]] = []

    def submit(self, name: str, request: TraceRequest) -> None:
        """Queue a request."""
        self._settled = False
        keys = self._shared_keys(request) if self._settings.prefix_caching else []
        own = self._next_key
        self._next_key += (request.prompt_tokens + request.output_tokens) // self._size + 1
        self._waiting.append(_Request(name, request.prompt_tokens, request.output_tokens, keys, own))

    def _shared_keys(self, request: TraceRequest) -> list[int]:
        """Keys of the full blocks that hold nothing but the shared prefix: equal for equal beginnings."""
        keys: list[int] = []
        parent, tokens, size = NEVER, request.prefix_block, self._size
        span = size if tokens % size else tokens  # the fewest whole blocks that end with an id, else single blocks
        covered = min(request.prompt_tokens, len(request.prefix) * tokens)
        for start in range(0, covered, span):
            ids = request.prefix[start // tokens : -(-(start + span) // tokens)]
            first = self._prefixes.get((parent, ids))
            if first is None:
                first = self._prefixes[parent, ids] = self._next_key
                self._next_key += span // size
            keys.extend(range(first, first + span // size))
            parent = first
        return keys[: covered // size]

    def busy(self) -> bool:
        """Whether there is something to schedule (true once more after the last request, as the engine flushes)."""
        return bool(self._running or self._waiting or self._flush)

    def _batch(self, step: int, prefills: list[tuple[int, int]]) -> CompactBatch | None:
        decodes, longest = self.decoding, 0
        if not decodes and not prefills:
            return None
        if decodes:
            while self._longest[0][2].turn != self._longest[0][1] or self._longest[0][2].last < step:
                heapq.heappop(self._longest)
            longest = step + 1 - self._longest[0][0]
        rows = self._tokens + decodes * (step + 1)
        sums = add_up(decodes, rows, longest, prefills)
        return CompactBatch(sums, NEVER if prefills else self._changes, partial(self._listed, step, prefills))

    def _listed(self, step: int, prefills: list[tuple[int, int]], ahead: int) -> tuple[tuple[int, int], ...]:
        """(new, cached) of each request, if nothing but decoding happens in so many steps."""
        cached = step + ahead
        return (*((1, r.done + cached) for r in self._running if r.first <= step <= r.last), *prefills)

    def steady(self) -> int:
        """How many of the next steps are like the last one, and bring no event: the same requests decode.

        Whoever waits for a seat or for blocks goes on waiting: seats stay taken, and blocks only become fewer.
        """
        if not self._settled or (self._flush and self._waiting):
            return 0
        return min(min(self._last) - self._step, self._pool.free // self.decoding * self._size)

    def skip(self, steps: int) -> None:
        """Schedule so many `steady` steps and take their results; as many as before are under way."""
        rounds, rest = divmod(steps, self._size)
        opening = sum(self._opening[(self._step + i) % self._size] for i in range(rest))
        self._pool.take(rounds * self.decoding + opening)
        self._flush = False
        self._step += steps
        self._under_way = deque(number + steps for number in self._under_way)

    def schedule(self) -> CompactStep:
        """Compose the next step."""
        step, size = self._step, self._size
        self._flush = False
        preempted: list[_Request] = []
        opening = self._opening[step % size]
        if opening <= self._pool.free:
            if opening:
                self._pool.take(opening)
        else:
            preempted = self._squeeze(step)
        budget = self._settings.max_num_batched_tokens - self.decoding
        prefills: list[tuple[int, int]] = []
        prefilled: list[_Request] = []
        last = self._running[-1] if self._running else None
        if last is not None and last.first == NEVER and last.done < last.prompt + last.known and budget > 0:
            new = min(last.prompt + last.known - last.done, budget)
            blocks = -(-(last.done + new) // size) - -(-last.done // size)
            if blocks > self._pool.free:
                self._preempt(self._running.pop(), step)
                preempted.append(last)
            else:
                self._pool.take(blocks)
                prefills.append((new, last.done))
                budget -= new
                self._advance(last, new, step, prefilled)
        if self._waiting and not preempted:
            self._admit(budget, step, prefills, prefilled)
        batch = self._batch(step, prefills)
        finishing = [request for request in self._last.pop(step, ()) if request.last == step]
        for request in finishing:
            self._stop_decoding(request)
        for request in prefilled:
            self._start_decoding(request, step + 1, finishing)
        self._settled = self.decoding > 0 and not (prefills or preempted or finishing)
        self._step += 1
        self._under_way.append(step)
        return CompactStep(batch, prefilled, finishing, preempted)

    def update(self, step: CompactStep) -> list[TokenEvent]:
        """Take a step's results: the first and last tokens that came out, and the first after each preemption."""
        number = self._under_way.popleft()
        events = [
            TokenEvent(request.name, request.known + 1, False, request.hit)
            for request in step.prefilled
            if request.stale != number and request.known + 1 < request.limit
        ]
        for request in step.finishing:
            if request.stale != number:
                self._running.remove(request)
                tokens = request.tokens(number + 1)
                self._release(request, tokens, tokens, again=False)
                events.append(TokenEvent(request.name, request.limit, True, request.hit))
                self._flush = True
        for request in self._stale.pop(number, ()):
            request.stale = NEVER
            request.known += request.owed
            if request.owed and request.known < request.limit and request in step.prefilled:
                events.append(TokenEvent(request.name, request.known, False, request.hit))
            if request.known == request.limit:
                self._waiting.remove(request)
                events.append(TokenEvent(request.name, request.limit, True, request.hit))
                self._flush = True
        return events

    def preempted(self, step: CompactStep) -> list[str]:
        """The requests that lost their KV blocks when this step was composed."""
        return [request.name for request in step.preempted]

    def _squeeze(self, step: int) -> list[_Request]:
        """Give each decoding request its block in order, taking blocks from the youngest; returns those preempted."""
        preempted: list[_Request] = []
        index = 0
        while index < len(self._running):
            request = self._running[index]
            if request.first <= step <= request.last and not (request.done + step) % self._size:
                while not self._pool.free:
                    victim = self._running.pop()
                    self._preempt(victim, step)
                    preempted.append(victim)
                    if victim is request:
                        return preempted
                self._pool.take(1)
            index += 1
        return preempted

    def _admit(self, budget: int, step: int, prefills: list[tuple[int, int]], prefilled: list[_Request]) -> None:
        """Start waiting requests in order, each only if all that it has so far fits."""
        later: list[_Request] = []
        size, pool, limit = self._size, self._pool, self._settings.max_num_seqs
        while budget > 0 and self._waiting and len(self._running) < limit:
            request = self._waiting[0]
            if request.stale != NEVER:  # its token under way must come out first
                later.append(self._waiting.popleft())
                continue
            total = request.prompt + request.known
            hits = self._hits(request, total)
            idle = len([block for block in hits if not block.users])
            if -(-total // size) - len(hits) + idle > pool.free:
                break
            cached = len(hits) * size
            if total - cached > budget and not self._settings.chunked_prefill:
                break
            new = min(total - cached, budget)
            for block in hits:
                pool.touch(block)
            pool.take(-(-(cached + new) // size) - len(hits))
            request.named, request.done = hits, cached
            if not request.preemptions:
                request.hit = cached
            self._running.append(self._waiting.popleft())
            prefills.append((new, cached))
            budget -= new
            self._advance(request, new, step, prefilled)
        self._waiting.extendleft(reversed(later))

    def _hits(self, request: _Request, total: int) -> list[Block]:
        """Cached blocks of its beginning; the last token is always computed anew."""
        hits: list[Block] = []
        if request.keys or (request.preemptions and self._settings.prefix_caching):
            for index in range((total - 1) // self._size):
                block = self._pool.find(request.key(index))
                if block is None:
                    break
                hits.append(block)
        return hits

    def _advance(self, request: _Request, new: int, step: int, prefilled: list[_Request]) -> None:
        """Count a chunk of its prompt (after preemption also of its output) as computed."""
        request.done += new
        request.kept, request.scheduled = request.done, step
        for index in range(len(request.named), min(request.done // self._size, len(request.keys))):
            request.named.append(self._pool.cache(request.keys[index]))
        if request.done == request.prompt + request.known:
            prefilled.append(request)

    def _start_decoding(self, request: _Request, step: int, finishing: list[_Request]) -> None:
        remaining = request.limit - request.known - 1
        if not remaining:
            finishing.append(request)
            return
        request.first, request.last = step, step + remaining - 1
        request.done -= step
        request.turn = next(self._turns)
        self._changes += 1
        self.decoding += 1
        self._tokens += request.done
        self._opening[-request.done % self._size] += 1
        self._last[request.last].append(request)
        heapq.heappush(self._longest, (-request.done, request.turn, request))

    def _stop_decoding(self, request: _Request) -> None:
        self._changes += 1
        self.decoding -= 1
        self._tokens -= request.done
        self._opening[-request.done % self._size] -= 1

    def _preempt(self, request: _Request, step: int) -> None:
        """Take its blocks and put it at the head of the queue."""
        tokens = request.tokens(step)
        decodes = request.first != NEVER
        complete = decodes or request.done == request.prompt + request.known
        scheduled = min(step - 1, request.last) if decodes else request.scheduled
        kept = max(request.kept, tokens - 1) if decodes and self.depth > 1 else tokens
        if request.last >= step:
            self._stop_decoding(request)
        if scheduled in self._under_way:
            request.stale, request.owed = scheduled, complete
            self._stale[scheduled].append(request)
        if complete:
            request.known = tokens - request.prompt + 1 - (request.stale != NEVER)
        self._release(request, tokens, kept, again=True)
        request.done, request.named = 0, []
        request.first = request.last = request.turn = NEVER
        request.preemptions += 1
        self._waiting.appendleft(request)

    def _release(self, request: _Request, tokens: int, kept: int, *, again: bool) -> None:
        """Free its blocks from the last to the first; `again`: it may look for them later."""
        blocks = -(-tokens // self._size)
        if not self._settings.prefix_caching:
            self._pool.give_empty(blocks)
            return
        full, named = kept // self._size, request.named
        self._pool.give_empty(blocks - full)
        if again:
            for index in range(full - 1, len(named) - 1, -1):
                self._pool.give(self._pool.cache(request.key(index)))
        else:
            self._pool.give_row(full - len(named))
        for block in reversed(named):
            self._pool.give(block)
