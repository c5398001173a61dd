"""3x3 convolutions with fewer products, for a training step that XLA compiles on the CPU.

Both forms compute what the plain convolution does but for rounding, have ordinary gradients, and
take the ordinary kernel. They add and copy more, which is cheap where XLA fuses it into loops, and
dear where every sum is an operation of its own.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from tfstyle.layers.padding import ReflectionPadding2D

#: The transforms of F(4, 3) of Lavin and Gray, arXiv:1509.09308, section 4.3: four neighboring
#: outputs of a filter with three taps are OUTPUT · [(KERNEL · taps) ⊙ (INPUT · six inputs)].
_INPUT = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    np.float32,
)
_KERNEL = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
    np.float32,
)
_OUTPUT = np.array(
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
    np.float32,
)
#: Below this many channels, in or out, the transforms cost more than the products they save.
_LEAST_CHANNELS = 32


def winograd_convolution(x, kernel, reflect: bool = False):
    """3x3 convolution, stride 1, with half the products: Winograd's F(4, 3) along each row.

    Tiles in both directions would save more products, but round ten times as coarsely; this is
    within about 5e-6 of the plain form's largest value. The width of `x` is a multiple of 4, known
    when the graph is made. `reflect` extends it by reflection, which needs two rows; else by zeros.
    """
    batch, height, width, channels = ops.shape(x)
    filters = kernel.shape[3]
    if reflect:
        x = tf.concat([x[:, 1:2], x, x[:, -2:-1]], axis=1)
    tiles = tf.reshape(x, [batch, ops.shape(x)[1], width // 4, 4, channels])
    inside = tf.unstack(tiles, axis=3)
    padding: str | list[list[int]] = "VALID"
    # The pixels left and right of each tile belong to its neighbors, or to the border.
    if reflect:
        left = tf.concat([inside[1][:, :, :1], inside[3][:, :, :-1]], axis=2)
        right = tf.concat([inside[0][:, :, 1:], inside[2][:, :, -1:]], axis=2)
    else:
        left = tf.pad(inside[3][:, :, :-1], [[0, 0], [0, 0], [1, 0], [0, 0]])
        right = tf.pad(inside[0][:, :, 1:], [[0, 0], [0, 0], [0, 1], [0, 0]])
        padding = [[0, 0], [1, 1], [0, 0], [0, 0]]
    inputs = _combine(_INPUT, [left, *inside, right])
    taps = tf.unstack(tf.einsum("fq,pqio->fpio", _KERNEL, kernel)[:, :, None])
    products = [tf.nn.conv2d(a, b, 1, padding) for a, b in zip(inputs, taps)]
    outputs = tf.stack(_combine(_OUTPUT, products), axis=3)
    return tf.reshape(outputs, [batch, height, width, filters])


def upsampled_convolution(x, kernel):
    """3x3 convolution of a map (B, h, w, C) doubled by nearest neighbor, a quarter of the products.

    Equals upsampling, padding by reflection and the plain convolution. Of the nine pixels under
    the kernel several are copies of one, which is the sub-pixel form of Shi et al.
    (arXiv:1609.05158): four 2x2 kernels on the small map, four products an output pixel instead of
    nine. With differences of neighbors instead of the neighbors themselves the four have products
    in common: along an axis, with taps k and S their sum, the two outputs of pixel i are ::

        y(2i)     = S·x(i) + k₀·(x(i − 1) − x(i))
        y(2i + 1) = S·x(i) + k₂·(x(i + 1) − x(i))

    that is three products for two outputs, nine for four in the plane. Beyond the border the
    reflected map repeats the border's pixel, so that the difference there is 0.
    """
    batch, height, width, channels = ops.shape(x)
    filters = kernel.shape[3]

    def down(tensor):
        """x(i − 1) − x(i) for i = 0 … h; 0 at both ends."""
        return tf.pad(tensor[:, :-1] - tensor[:, 1:], [[0, 0], [1, 1], [0, 0], [0, 0]])

    def across(tensor):
        return tf.pad(tensor[:, :, :-1] - tensor[:, :, 1:], [[0, 0], [0, 0], [1, 1], [0, 0]])

    def products(tensor, kernels):
        shape = [*ops.shape(tensor)[:3], filters * len(kernels)]
        flat = tf.matmul(tf.reshape(tensor, [-1, channels]), tf.concat(kernels, axis=1))
        return tf.split(tf.reshape(flat, shape), len(kernels), axis=3)

    # The sum, the first and the negative third of the taps, along the columns and then the rows.
    s, first, last = [
        (tf.reduce_sum(part, axis=0), part[0], -part[2])
        for part in (tf.reduce_sum(kernel, axis=0), kernel[0], -kernel[2])
    ]
    vertical = down(x)
    (center,) = products(x, [s[0]])
    by_row = products(vertical, [first[0], last[0]])
    by_column = products(across(x), [s[1], s[2]])
    by_both = products(across(vertical), [*first[1:], *last[1:]])
    rows = []
    for p in (0, 1):
        columns = [
            center
            + by_row[p][:, p : p + height]
            + by_column[q][:, :, q : q + width]
            + by_both[2 * p + q][:, p : p + height, q : q + width]
            for q in (0, 1)
        ]
        rows.append(tf.stack(columns, axis=3))
    return tf.reshape(tf.stack(rows, axis=2), [batch, 2 * height, 2 * width, filters])


class FastConvolution(keras.layers.Wrapper):
    """A 3x3 ``Conv2D`` layer's result with "same" size, by the form with the fewest products.

    Uses the layer's kernel, bias and activation, and not its padding: the border is by reflection
    or of zeros. `doubled` convolves the map doubled by nearest neighbor, its border by reflection.
    Maps in half precision, of few channels or of widths that are not a multiple of 4 take the
    plain convolution.
    """

    def __init__(self, layer, reflect: bool = False, doubled: bool = False):
        super().__init__(layer, name=layer.name, dtype=layer.dtype_policy)
        self.reflect, self.doubled = reflect or doubled, doubled

    def call(self, x):
        layer = self.layer
        kernel = tf.cast(tf.convert_to_tensor(layer.kernel), x.dtype)
        single = x.dtype == tf.float32
        if self.doubled and single:
            y = upsampled_convolution(x, kernel)
        else:
            if self.doubled:
                x = tf.repeat(tf.repeat(x, 2, axis=1), 2, axis=2)
            many = min(kernel.shape[2:]) >= _LEAST_CHANNELS
            if single and many and x.shape[2] is not None and x.shape[2] % 4 == 0:
                y = winograd_convolution(x, kernel, self.reflect)
            elif self.reflect:
                x = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], mode="REFLECT")
                y = tf.nn.conv2d(x, kernel, 1, "VALID")
            else:
                y = tf.nn.conv2d(x, kernel, 1, "SAME")
        if layer.use_bias:
            y = y + tf.cast(tf.convert_to_tensor(layer.bias), y.dtype)
        return layer.activation(y)


class FastMaxPooling(keras.layers.Wrapper):
    """A 2x2 ``MaxPooling2D`` layer with stride 2 whose gradient XLA compiles well on the CPU.

    The gradient goes to the first of equals.
    """

    def __init__(self, layer):
        super().__init__(layer, name=layer.name)

    def call(self, x):
        batch, height, width, channels = ops.shape(x)
        if None in x.shape[1:3] or height % 2 or width % 2:
            return self.layer(x)
        tiles = tf.reshape(x, [batch, height // 2, 2, width // 2, 2, channels])
        columns = tf.maximum(tiles[:, :, :, :, 0], tiles[:, :, :, :, 1])
        return tf.maximum(columns[:, :, 0], columns[:, :, 1])


def fast_forms() -> Callable[[keras.layers.Layer], keras.layers.Layer]:
    """A function that gives, for one layer of a model after the other, the one to swap in.

    It is a ``clone_function`` of ``keras.models.clone_model``. The swapped-in layers share the
    variables of the old ones; they are made for the training step, not to be saved. Padding by
    reflection and doubling are left to the convolution behind them.
    """
    doubled = False

    def swap(layer):
        nonlocal doubled
        if isinstance(layer, keras.layers.UpSampling2D) and layer.size == (2, 2):
            doubled = True
            return keras.layers.Identity(name=layer.name)
        if isinstance(layer, ReflectionPadding2D):
            return keras.layers.Identity(name=layer.name)
        if isinstance(layer, keras.layers.Conv2D) and layer.kernel_size == (3, 3):
            fast = FastConvolution(layer, layer.padding == "valid", doubled)
            doubled = False
            return fast
        if isinstance(layer, keras.layers.MaxPooling2D) and layer.pool_size == (2, 2):
            return FastMaxPooling(layer)
        return layer

    return swap


def _combine(matrix, tensors):
    """Rows of a constant matrix times a list of tensors, without the products by 0 and 1."""
    results = []
    for row in matrix:
        terms = [
            tensor if c == 1 else -tensor if c == -1 else float(c) * tensor
            for c, tensor in zip(row, tensors)
            if c != 0
        ]
        results.append(sum(terms[1:], terms[0]))
    return results
