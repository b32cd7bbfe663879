"""Near-duplicates are found without comparing all pairs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctp.curation.duplicates import find_duplicates


def random_hashes(number, rng):
    return rng.integers(0, 256, (number, 3, 32), dtype=np.uint8)


def with_errors(hashes, number, rng):
    """Return hashes that differ in `number` bits each."""
    bits = np.unpackbits(hashes, axis=2)
    for each in bits.reshape(-1, 256):
        each[rng.choice(256, number, replace=False)] ^= 1
    return np.packbits(bits, axis=2)


@given(st.integers(0, 15), st.integers(1, 40), st.integers(0, 2**32))
def test_copies_with_few_wrong_bits_are_always_found(wrong_bits, number, seed):
    rng = np.random.default_rng(seed)
    originals = random_hashes(number, rng)
    hashes = np.concatenate([originals, with_errors(originals, wrong_bits, rng)])
    found = find_duplicates(hashes, np.arange(2 * number), 31)
    assert found.tolist() == [-1] * number + list(range(number))


def test_most_copies_at_the_threshold_are_found():
    rng = np.random.default_rng(0)
    originals = random_hashes(2000, rng)
    hashes = np.concatenate([originals, with_errors(originals, 31, rng)])
    found = find_duplicates(hashes, np.arange(4000), 31)
    assert (found[:2000] == -1).all()
    assert np.mean(found[2000:] == np.arange(2000)) > 0.95


@pytest.mark.parametrize(("wrong_bits", "is_copy"), [(31, True), (32, False)])
def test_the_mean_distance_decides(wrong_bits, is_copy):
    hashes = np.zeros((2, 3, 32), np.uint8)
    hashes[1, :, :8] = np.packbits(np.arange(64) < wrong_bits)  # 24 bands stay equal
    assert (find_duplicates(hashes, np.arange(2), 31)[1] == 0) == is_copy


def test_the_one_of_lowest_rank_is_kept():
    hashes = np.repeat(random_hashes(1, np.random.default_rng(0)), 4, 0)
    assert find_duplicates(hashes, np.array([2, 0, 3, 1]), 31).tolist() == [1, -1, 1, 1]


def test_every_duplicate_has_an_original_that_is_kept():
    # each is near to the next one, and the ends are far from each other
    bits = np.tril(np.ones((13, 13), np.uint8), -1).repeat(20, 1)
    hashes = np.packbits(np.pad(bits[:, :256], ((0, 0), (0, 0))), axis=1)
    chain = np.zeros((13, 3, 32), np.uint8)
    chain[:, :, : hashes.shape[1]] = hashes[:, None, :32]
    found = find_duplicates(chain, np.arange(13), 31)
    assert (found >= 0).any()
    assert all(found[each] == -1 for each in found[found >= 0])


def test_many_equal_pictures_take_bounded_time():
    hashes = np.zeros((20_000, 3, 32), np.uint8)
    hashes[:, :, 20:] = random_hashes(20_000, np.random.default_rng(0))[:, :, 20:]
    # all share ten bands, and differ by 48 bits in the mean
    assert (find_duplicates(hashes, np.arange(20_000), 20) == -1).mean() > 0.99


@pytest.mark.parametrize("number", [0, 1])
def test_nothing_has_no_duplicates(number):
    hashes = np.zeros((number, 3, 32), np.uint8)
    assert find_duplicates(hashes, np.arange(number), 31).tolist() == [-1] * number
