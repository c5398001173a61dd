"""Reducing images by area averaging."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tfstyle.errors import ArgumentError
from tfstyle.layers import reduce_size

from ..models import image


class TestReduce:
    @pytest.mark.parametrize("shape", [(1, 512, 400, 1), (2, 37, 300, 1), (1, 1, 900, 1)])
    def test_longest_side_and_mean(self, shape):
        x = image(0, shape)
        small = np.asarray(reduce_size(x, 64))
        assert max(small.shape[1:3]) == 64
        np.testing.assert_allclose(small.mean((1, 2)), x.mean((1, 2)), atol=1e-5)

    def test_whole_factor_is_the_mean_of_blocks(self):
        x = image(1, (2, 24, 24, 1))
        expected = x.reshape(2, 8, 3, 8, 3, 1).mean((2, 4))
        np.testing.assert_allclose(reduce_size(x, 8), expected, atol=1e-6)

    def test_small_images_stay(self):
        x = image(2, (1, 20, 31, 1))
        np.testing.assert_array_equal(reduce_size(x, 31), x)
        images = tf.TensorSpec((None, None, None, 1), tf.float32)
        traced = tf.function(lambda y: reduce_size(y, 31), input_signature=[images])
        np.testing.assert_allclose(traced(x), x, atol=1e-6)

    def test_bad_size(self):
        with pytest.raises(ArgumentError, match="longest"):
            reduce_size(image(0, (1, 4, 4, 1)), 0)
