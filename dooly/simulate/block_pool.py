"""KV cache blocks of the compact scheduler: the engine's order of reuse, with as few objects as that takes.

Blocks differ only while somebody may look for what they hold.  What a request wrote itself is looked for by nobody
else, so such blocks are counted; those under a key (a shared prefix, or what a preempted request left) are objects.
"""

from __future__ import annotations

from collections import OrderedDict

__all__ = ["Block", "BlockPool"]


class Block:
    """A cached block under a key, or (key -1) a row of `size` blocks in the free list that nobody will look for."""

    __slots__ = ("key", "size", "users")

    def __init__(self, key: int, users: int, size: int = 1) -> None:
        self.key, self.users, self.size = key, users, size


class BlockPool:
    """Free blocks in the order in which they are reused: first those that hold nothing, then the least recently used.

    Attributes:
        free: how many blocks can be taken.
    """

    def __init__(self, blocks: int) -> None:
        self.free = self._empty = blocks - 1  # the engine keeps one back
        self._queue: OrderedDict[Block, None] = OrderedDict()
        self._cached: dict[int, list[Block]] = {}

    def take(self, count: int) -> None:
        """Use `count` free blocks; what they held is forgotten.  The caller has checked `free`."""
        self.free -= count
        empty = min(count, self._empty)
        self._empty -= empty
        count -= empty
        while count:
            oldest = next(iter(self._queue))
            used = min(count, oldest.size)
            count -= used
            oldest.size -= used
            if not oldest.size:
                del self._queue[oldest]
                if oldest.key >= 0:
                    self._forget(oldest)

    def _forget(self, block: Block) -> None:
        alike = self._cached[block.key]
        alike.remove(block)
        if not alike:
            del self._cached[block.key]

    def give_empty(self, count: int) -> None:
        """Free blocks whose contents are of no use: they are reused first."""
        self.free += count
        self._empty += count

    def give_row(self, count: int) -> None:
        """Free blocks that are cached, as far as the engine knows, but that nobody will look for."""
        if count:
            self.free += count
            self._queue[Block(-1, 0, count)] = None

    def give(self, block: Block) -> None:
        """One user less; a block without users is free but can still be found."""
        block.users -= 1
        if not block.users:
            self.free += 1
            self._queue[block] = None

    def cache(self, key: int) -> Block:
        """Put a block in use under a key.  Of several blocks under one key the oldest is found."""
        block = Block(key, 1)
        self._cached.setdefault(key, []).append(block)
        return block

    def find(self, key: int) -> Block | None:
        """The block under a key, in use or free."""
        alike = self._cached.get(key)
        return alike[0] if alike else None

    def touch(self, block: Block) -> None:
        """One user more."""
        if not block.users:
            self.free -= 1
            del self._queue[block]
        block.users += 1
