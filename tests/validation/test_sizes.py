"""Size classes: where they meet, and means of errors within them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commlens.validation.sizes import LARGE, SIZE_CLASSES, SMALL, mean_errors, size_class


def test_a_mebibyte_is_large():
    assert [size_class(size) for size in (1, 2**20 - 1, 2**20, 2.0**34)] == [SMALL, SMALL, LARGE, LARGE]


@given(st.lists(st.tuples(st.floats(1, 1e10), st.floats(-1, 10)), max_size=30))
def test_means_by_class_add_up_to_the_mean_of_all(rows):
    sizes, errors = [size for size, _ in rows], [error for _, error in rows]
    means = mean_errors(sizes, errors)
    counts = {name: sum(size_class(size) == name for size in sizes) for name in SIZE_CLASSES}
    assert list(means) == [name for name in SIZE_CLASSES if counts[name]]
    total = sum(counts[name] * mean for name, mean in means.items())
    assert total == pytest.approx(np.abs(errors).sum())
