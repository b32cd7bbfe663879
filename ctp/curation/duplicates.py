"""Find segments that show the same, without comparing all pairs.

Each segment has three perceptual hashes of 256 bits. Hashes of the same picture, encoded again or
scaled, mostly differ in fewer than 16 bits, so that at least one of 16 bands of 16 bits is equal.
Hashes are sorted by each band, and each is compared with those that follow it and have the same
band. At most `MAX_NEIGHBOURS` are, ordered by the other bits, so that the time is bounded also
where millions of pictures share a band. Then all three hashes of both segments are compared.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

BANDS, WORDS = 16, 4
"""A hash of 256 bits as bands of 16 bits, and as words of 64."""
MAX_NEIGHBOURS = 64
PAIRS_AT_ONCE = 2**20


def find_duplicates(
    hashes: NDArray[np.uint8], rank: NDArray[np.int64], max_distance: int
) -> NDArray[np.int64]:
    """Return of which segment each one is a duplicate.

    Segments are taken in the order of their ranks: each is kept unless one that is kept shows the
    same. So every duplicate has an original that is kept.

    Args:
        hashes: uint8 [N, K, 32], K hashes of each segment.
        rank: int64 [N], all different; of two duplicates, the one of lower rank is kept.
        max_distance: greatest mean distance of the K hashes, in bits.

    Returns:
        int64 [N], the number of the original, or -1 for a segment that is kept.
    """
    first, second = _similar_pairs(hashes, max_distance)
    # the pairs of each segment, from the better one to the worse
    swap = rank[first] > rank[second]
    better, worse = np.where(swap, second, first), np.where(swap, first, second)
    original = np.full(len(hashes), -1, np.int64)
    for pair in np.lexsort((rank[worse], rank[better])).tolist():
        keeper, other = int(better[pair]), int(worse[pair])
        if original[keeper] < 0 and original[other] < 0:
            original[other] = keeper
    return original


def _similar_pairs(
    hashes: NDArray[np.uint8], max_distance: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the numbers of the two segments of each similar pair, each pair once."""
    count = hashes.shape[1]
    words = np.ascontiguousarray(hashes).view(np.uint64).reshape(-1, count, WORDS)
    found = [np.empty((0, 2), np.int64)]
    for each in range(count):
        own = np.ascontiguousarray(words[:, each : each + 1])
        for band in range(BANDS):
            for pairs in _candidates(hashes[:, each], band):
                # one hash first: where the mean is small, at least one of them is near
                pairs = pairs[_distance(own, pairs) <= max_distance]
                pairs = pairs[_distance(words, pairs) <= max_distance * count]
                found.append(np.sort(pairs, 1))
    pairs = np.unique(np.concatenate(found), axis=0)
    return pairs[:, 0], pairs[:, 1]


def _distance(words: NDArray[np.uint64], pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the number of different bits of each pair, int64 [P]."""
    different = np.bitwise_count(words[pairs[:, 0]] ^ words[pairs[:, 1]])
    distance: NDArray[np.int64] = different.sum((1, 2), dtype=np.int64)
    return distance


def _candidates(hashes: NDArray[np.uint8], band: int) -> Iterator[NDArray[np.int64]]:
    """Yield pairs of segments, int64 [P, 2], whose hashes, uint8 [N, 32], have the same band."""
    # the bits of the band first, then 48 others, so that neighbours are alike beyond the band
    turned = np.roll(hashes, -2 * band, 1)[:, :8]
    keys = np.ascontiguousarray(turned).view(">u8")[:, 0].astype(np.uint64)
    order = np.argsort(keys, kind="stable")
    bands = keys[order] >> np.uint64(48)
    for step in range(1, min(MAX_NEIGHBOURS, len(order) - 1) + 1):
        same = np.flatnonzero(bands[:-step] == bands[step:])
        if not len(same):
            return  # nothing is alike over a longer distance, either
        for start in range(0, len(same), PAIRS_AT_ONCE):
            part = same[start : start + PAIRS_AT_ONCE]
            yield np.stack([order[part], order[part + step]], 1)
