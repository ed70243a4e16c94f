"""The caches of a Zipformer2 in the form (1, channels, 1, frames), those of one width together.

Each state on its own costs a Transpose at either end, and those of the convolutions a Reshape that
the compiler leaves to the CPU. States of one width share one Concat, Transpose and Split.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from zipquant.rewrites.channels_first import Writer


@dataclass(frozen=True)
class Cache:
    """A state of frames before the chunk.

    Attributes:
        name: the model's input.
        output: the model's output of its next value.
        shape: (left, 1, channels) or (1, 1, left, channels); of a convolution (1, channels, left).
        frames: frames of a chunk where it is used.
    """

    name: str
    output: str
    shape: tuple[int, ...]
    frames: int

    @property
    def by_frame(self) -> bool:
        """Whether all channels of a frame lie together."""
        return len(self.shape) == 4 or self.shape[1] == 1

    @property
    def left(self) -> int:
        """Number of frames."""
        return self.shape[-2] if len(self.shape) == 4 else self.shape[0 if self.by_frame else 2]

    @property
    def channels(self) -> int:
        """Width of a frame."""
        return self.shape[-1] if self.by_frame else self.shape[1]

    @property
    def pieces(self) -> list[int]:
        """Frames that leave the cache with the next chunk, and those that stay."""
        if self.frames < self.left:
            return [self.frames, self.left - self.frames]
        return [self.left]


class Caches:
    """Writes the reading of all caches at once, and the writing of their next values at the end.

    Args:
        writer: what is written to.
        caches: all caches of the model.
    """

    def __init__(self, writer: Writer, caches: Sequence[Cache]):
        self._writer = writer
        self._caches = {cache.name: cache for cache in caches}
        self._pieces: dict[str, list[str]] = {}
        self._next: dict[str, list[str]] = {}
        with writer.scope("caches"):
            for group in self._groups():
                self._read(group)

    def _groups(self) -> Iterator[list[Cache]]:
        groups: dict[tuple, list[Cache]] = {}
        for cache in self._caches.values():
            key = (cache.channels, 0 if cache.by_frame else cache.left)
            groups.setdefault(key, []).append(cache)
        yield from groups.values()

    def _read(self, group: list[Cache]) -> None:
        writer, channels = self._writer, group[0].channels
        if group[0].by_frame:
            rows = [writer.reshape(c.name, [1, c.left, 1, channels]) for c in group]
            columns = writer.transpose(writer.concat(rows, 1), [0, 3, 2, 1])
        else:
            planes = [writer.reshape(c.name, [1, 1, channels, c.left]) for c in group]
            rows = writer.transpose(writer.concat(planes, 1), [0, 2, 1, 3])
            columns = writer.reshape(rows, [1, channels, 1, -1])
        pieces = iter(writer.split(columns, [n for c in group for n in c.pieces], 3))
        for cache in group:
            self._pieces[cache.name] = [next(pieces) for _ in cache.pieces]

    def join(self, name: str, new: str) -> str:
        """Return a cache and a chunk (1, channels, 1, frames) joined."""
        cache, pieces = self._caches[name], self._pieces.pop(name)
        whole = self._writer.concat([*pieces, new], 3)
        if len(pieces) == 2:
            self._next[name] = [pieces[1], new]
        else:
            end = cache.frames + cache.left
            self._next[name] = [self._writer.slice(whole, cache.frames, end, 3)]
        return whole

    def write(self) -> None:
        """Write the next values of all caches."""
        with self._writer.scope("new_caches"):
            for group in self._groups():
                self._write(group)

    def _write(self, group: list[Cache]) -> None:
        writer = self._writer
        parts = [part for cache in group for part in self._next[cache.name]]
        if group[0].by_frame:
            rows = writer.transpose(writer.concat(parts, 3), [0, 3, 2, 1])
            pieces = writer.split(rows, [cache.left for cache in group], 1)
        else:
            columns = writer.concat(parts, 3)
            rows = writer.reshape(columns, [1, group[0].channels, len(group), group[0].left])
            planes = writer.transpose(rows, [0, 2, 1, 3])
            pieces = writer.split(planes, [1] * len(group), 1)
        for cache, piece in zip(group, pieces, strict=True):
            writer.reshape(piece, cache.shape, output=cache.output)
