"""Names of answers: the same whenever a record is answered again, by whatever process and in whatever batch."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomvae.streaming.contracts import Record

FloatArray = npt.NDArray[np.float64]
Words = npt.NDArray[np.uint64]

_APART = "\x1f"
_REMEMBERED = 65_536
"""Different assets and partitions whose share of a name is remembered."""
_DIGITS = 16


class EventNames:
    """Gives answers their names, 64 bits each: of an asset at a time, or of where a record lies.

    What is text goes through BLAKE2b, once for all records that share it; times, offsets and cells are mixed in word by word
    with the finaliser of SplitMix64 (Steele, Lea and Flood, 2014), a bijection: under one asset no two times share a name.

    Args:
        version: The model's.
    """

    def __init__(self, version: str) -> None:
        self._version = version
        self._seeds: dict[tuple[str | int, ...], int] = {}

    def events(
        self, assets: Sequence[str], times_s: FloatArray, cells: npt.NDArray[np.uint64] | None = None
    ) -> list[str]:
        """Names of what happened to assets at times.

        Args:
            assets: n of them.
            times_s: Shape ``(n,)``.
            cells: What tells apart what happened to one at the same time, where more than one thing may; shape ``(n, k)``.
        """
        names = self._mixed([self._seed(asset) for asset in assets], times_s.astype(np.float64).view(np.uint64))
        for word in () if cells is None else cells.T:
            names = _mix(names ^ word)
        return _hexadecimal(names)

    def origins(self, records: Sequence[Record], parts: Sequence[int]) -> list[str]:
        """Names of what records say, where no asset and time tell: by where they lie, or by their digest if they have one.

        Args:
            records: n of them.
            parts: Number of each row within its record.
        """
        seeds = [
            self._seed(record.origin[0], record.origin[1]) if record.digest is None else self._digested(record.digest)
            for record in records
        ]
        offsets = np.array([0 if record.digest is not None else record.origin[2] for record in records], np.int64)
        names = self._mixed(seeds, offsets.view(np.uint64))
        return _hexadecimal(_mix(names ^ np.array(parts, np.int64).view(np.uint64)))

    @staticmethod
    def _mixed(seeds: list[int], words: Words) -> Words:
        return _mix(np.array(seeds, dtype=np.uint64) ^ words)

    def _seed(self, *parts: str | int) -> int:
        seed = self._seeds.get(parts)
        if seed is None:
            if len(self._seeds) >= _REMEMBERED:
                self._seeds.clear()
            text = _APART.join([str(len(parts)), *map(str, parts), self._version])
            seed = self._seeds[parts] = _word(text.encode("utf-8", "surrogatepass"))
        return seed

    def _digested(self, digest: bytes) -> int:
        return _word(digest + _APART.encode() + self._version.encode("utf-8", "surrogatepass"))


def _word(content: bytes) -> int:
    return int.from_bytes(blake2b(content, digest_size=8).digest(), "big")


def _mix(words: Words) -> Words:
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Words = words ^ (words >> np.uint64(31))
    return mixed


def _hexadecimal(words: Words) -> list[str]:
    text = words.astype(">u8").tobytes().hex()
    return [text[start : start + _DIGITS] for start in range(0, len(text), _DIGITS)]
