"""Random generators derived from names: pinned, because all results depend on them."""

import subprocess
import sys

import numpy as np
import pytest

from ctp.rng import generator, uniform_hash


def test_the_derivation_is_pinned():
    drawn = generator(7, "clip", 3, "a").integers(0, 2**32, 3)
    assert drawn.tolist() == [2353149321, 495773630, 3378799160]
    assert uniform_hash(7, "clip", 3, "a") == 0.11566020233187836


def test_another_process_draws_the_same():
    code = "from ctp.rng import *; print(generator(7, 'clip').random(), uniform_hash(7, 'x'))"
    command = [sys.executable, "-c", code]
    env = {"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": "77"}
    printed = subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout
    assert printed.split() == [repr(generator(7, "clip").random()), repr(uniform_hash(7, "x"))]


def test_the_order_of_calls_does_not_matter():
    names = [("clip", epoch, f"video {i}") for epoch in range(3) for i in range(5)]
    forward = {name: generator(0, *name).random() for name in names}
    backward = {name: generator(0, *name).random() for name in reversed(names)}
    assert forward == backward
    assert len(set(forward.values())) == len(names)


@pytest.mark.parametrize(
    ("first", "second"),
    [((1,), ("1",)), (("a", "bc"), ("ab", "c")), (("a",), ("a", "")), ((1, 23), (12, 3))],
)
def test_similar_names_give_different_numbers(first, second):
    assert generator(0, *first).random() != generator(0, *second).random()
    assert uniform_hash(0, *first) != uniform_hash(0, *second)
    assert uniform_hash(1, *first) != uniform_hash(0, *first)


def test_a_numpy_integer_equals_the_python_integer():
    assert uniform_hash(np.int64(3), np.uint8(5), "x") == uniform_hash(3, 5, "x")
    assert generator(0, np.int64(5)).random() == generator(0, 5).random()


def test_a_fractional_name_is_refused():
    with pytest.raises(TypeError, match="float"):
        generator(0, 1.5)


def test_hashes_are_uniform():
    values = np.array([uniform_hash(0, "share", i) for i in range(2000)])
    assert values.min() >= 0
    assert values.max() < 1
    share = np.bincount((values * 10).astype(int), minlength=10) / len(values)
    np.testing.assert_allclose(share, 0.1, atol=0.03)
