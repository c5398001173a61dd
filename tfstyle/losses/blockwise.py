"""The contextual similarity over blocks of rows, with memory that grows as N·block and not N².

A block of rows i holds whole rows of the distance matrix, so that the row's minimum and sum are
known as soon as the block is; the maximum over the columns is carried from block to block. Only
one entry of each column reaches the result, and the softmax needs, for its gradient, no more than
the mean of the x_k under each row's affinities. That mean is a product of the block with x, as in
Dao et al., "FlashAttention", arXiv:2205.14135, and is taken while the block is there. The gradient
by g and its offset therefore computes no block a second time; the one by x does, in a loop of its
own that the graph drops where nobody asks for it.
"""

from __future__ import annotations

import tensorflow as tf
from keras import ops

#: ε of equation 3 of the contextual loss, in the denominator of the normalized distance.
DISTANCE_EPSILON = 1e-5

#: Entries of the distance matrices of all samples that one block holds unless told otherwise:
#: 8 MB in float32.
BLOCK_ENTRIES = 2 * 1024**2


def column_maxima(
    g,
    x,
    g_offset,
    x_offset,
    *,
    factor: float,
    bandwidth: float,
    g_places=None,
    x_places=None,
    block: int | None = None,
):
    """max_i CA_ij for every j, with distances that are linear in the product of two vectors.

    With g (B, N, C), x (B, M, C), a (B, N) and b (B, M), and s_ij the squared distance of two
    places, 0 where they are None::

        d_ij  = max(a_i + b_j + factor · g_i·x_j, 0) + s_ij
        CA_ij = softmax over j of −d_ij / (min_k d_ik + 1e-5) / h

    Gives float32 (B, M) in (0, 1]. Where several i share a column's maximum, or several k a row's
    minimum, the gradient takes the first; places take none. The rows of a block, by default chosen
    by the size of a row, change nothing but rounding.
    """
    batch, rows, channels = ops.shape(g)
    columns = ops.shape(x)[1]
    if block is None:
        block = BLOCK_ENTRIES // _maximum(batch * columns, 1)
        # Whole multiples of eight rows fill the vector registers of the matrix product.
        block = _maximum(block // 8 * 8, 8)
    block = _minimum(block, rows)
    count = -(-rows // block)
    padding = count * block - rows

    def in_blocks(tensor, axis=1):
        """Pads the axis of the rows to whole blocks."""
        if isinstance(padding, int) and padding == 0:
            return tensor
        paddings = [[0, 0]] * len(tensor.shape)
        paddings[axis] = [0, padding]
        return tf.pad(tensor, paddings)

    def cut(tensor, start, axis=1):
        begin, size = [0] * len(tensor.shape), [*ops.shape(tensor)]
        begin[axis], size[axis] = start, block
        part = tf.slice(tensor, begin, size)
        shape = tensor.shape.as_list()
        shape[axis] = block if isinstance(block, int) else None
        part.set_shape(shape)
        return part

    def distances(g, x, g_offset, x_offset, places):
        d = tf.matmul(g, x, transpose_b=True) * factor
        # Rounding may carry the distance of equal vectors below 0.
        d = tf.maximum(d + g_offset[:, :, None] + x_offset[:, None, :], 0.0)
        if places is not None:
            for axis in (0, 1):
                d += tf.square(places[:, axis, None] - x_places[None, :, axis])[None]
        return d

    spread_places = None if g_places is None else in_blocks(g_places, axis=0)

    def places_at(start):
        return None if spread_places is None else cut(spread_places, start, axis=0)

    @tf.custom_gradient
    def maxima(g, x, g_offset, x_offset):
        g_blocks, a_blocks = in_blocks(g), in_blocks(g_offset)

        def step(k, best, best_row, stored):
            start = k * block
            d = distances(cut(g_blocks, start), x, cut(a_blocks, start), x_offset, places_at(start))
            nearest = tf.reduce_min(d, axis=2, keepdims=True)
            scale = 1.0 / ((nearest + DISTANCE_EPSILON) * bandwidth)
            weight = tf.exp((nearest - d) * scale)
            total = tf.reduce_sum(weight, axis=2, keepdims=True)
            numbers = start + tf.range(block)
            # Rows of the padding have affinity 0 to everything.
            inside = tf.cast(numbers < rows, d.dtype)[None, :, None]
            affinity = weight * (inside / total)
            found = {
                "mean": tf.matmul(affinity, x),
                "distance": tf.reduce_sum(affinity * d, axis=2),
                "nearest": nearest[:, :, 0],
                "total": total[:, :, 0],
                "partner": _first(d <= nearest, tf.range(columns), axis=2),
            }
            highest = tf.reduce_max(affinity, axis=1)
            row = _first(affinity >= highest[:, None, :], numbers[:, None], axis=1)
            higher = highest > best
            best = tf.where(higher, highest, best)
            best_row = tf.where(higher, row, best_row)
            stored = {key: stored[key].write(k, found[key]) for key in stored}
            return k + 1, best, best_row, stored

        steps = tf.convert_to_tensor(count, tf.int32)
        block_dim = block if isinstance(block, int) else None
        batch_dim = g.shape[0]

        def store(dtype, *tail):
            return tf.TensorArray(
                dtype,
                size=steps,
                element_shape=(batch_dim, block_dim, *tail),
                clear_after_read=True,
            )

        stored = {
            "mean": store(tf.float32, channels),
            "distance": store(tf.float32),
            "nearest": store(tf.float32),
            "total": store(tf.float32),
            "partner": store(tf.int32),
        }
        _, best, best_row, stored = tf.while_loop(
            lambda k, *_: k < steps,
            step,
            (
                tf.constant(0),
                tf.fill([batch, columns], tf.constant(-1.0)),
                tf.zeros([batch, columns], tf.int32),
                stored,
            ),
            parallel_iterations=1,
        )

        def rows_of(name):
            """(count, B, block, …) to (B, N, …)."""
            tensor = stored[name].stack()
            order = [1, 0, *range(2, len(tensor.shape))]
            tensor = tf.transpose(tensor, order)
            tail = [channels] if len(tensor.shape) == 4 else []
            return tf.reshape(tensor, [batch, count * block, *tail])[:, :rows]

        row = {name: rows_of(name) for name in stored}

        def gradient(upstream):
            scale = 1.0 / ((row["nearest"] + DISTANCE_EPSILON) * bandwidth)  # (B, N), 1/((m+ε)h)
            pull = upstream * best  # (B, M): dL/dCA · CA at the one entry that counts
            partner_g = _gather(g, best_row)  # g of the row that holds each column's maximum
            partner_d = tf.reduce_sum(partner_g * x, axis=2) * factor
            partner_d = tf.maximum(partner_d + _gather(g_offset, best_row) + x_offset, 0.0)
            if g_places is not None:
                partner_d += tf.reduce_sum(
                    tf.square(tf.gather(g_places, best_row) - x_places[None]), axis=2
                )
            # Sums over the columns whose maximum lies in row i.
            sums = _scatter(
                tf.concat([pull[..., None] * x, pull[..., None], (pull * partner_d)[..., None]], 2),
                best_row,
                rows,
            )
            pulled_x, pulled, pulled_d = sums[..., :channels], sums[..., -2], sums[..., -1]
            # dL/dz_ik = CA_ik (dL/dCA_ik − r_i) with z = −d/((m+ε)h) and r_i = Σ dL/dCA·CA,
            # summed against x_k, and against d_ik for the minimum m that divides every distance.
            by_minimum = scale / (row["nearest"] + DISTANCE_EPSILON)
            by_minimum *= pulled_d - pulled * row["distance"]
            direct = pulled_x - pulled[..., None] * row["mean"]
            nearest_x = _gather(x, row["partner"])
            by_g = factor * (by_minimum[..., None] * nearest_x - scale[..., None] * direct)
            # The softmax's own gradient sums to 0 over a row: the offset moves the minimum alone.
            by_g_offset = by_minimum

            # By x: every row gives dL/dd_ik = CA_ik r_i /((m+ε)h) to every column …
            rate_blocks = in_blocks(pulled * scale / row["total"])
            nearest_blocks, scale_blocks = in_blocks(row["nearest"]), in_blocks(scale)

            def step_back(k, by_x, by_x_offset):
                start = k * block
                part = cut(g_blocks, start)
                d = distances(part, x, cut(a_blocks, start), x_offset, places_at(start))
                rate = cut(rate_blocks, start)[..., None]
                share = rate * tf.exp(
                    (cut(nearest_blocks, start)[..., None] - d)
                    * cut(scale_blocks, start)[..., None]
                )
                by_x += tf.matmul(share, part, transpose_a=True)
                by_x_offset += tf.reduce_sum(share, axis=1)
                return k + 1, by_x, by_x_offset

            _, by_x, by_x_offset = tf.while_loop(
                lambda k, *_: k < steps,
                step_back,
                (tf.constant(0), tf.zeros_like(x), tf.zeros_like(x_offset)),
                parallel_iterations=1,
            )
            # … its maximum takes back what it pulled, and the row's minimum passes on its own.
            taken = pull * _gather(scale, best_row)
            by_x -= taken[..., None] * partner_g
            by_x_offset -= taken
            passed = _scatter(
                tf.concat([by_minimum[..., None] * g, by_minimum[..., None]], 2),
                row["partner"],
                columns,
            )
            by_x = factor * (by_x + passed[..., :channels])
            by_x_offset += passed[..., -1]
            return by_g, by_x, by_g_offset, by_x_offset

        return best, gradient

    return maxima(g, x, g_offset, x_offset)


def _minimum(a, b):
    return min(a, b) if isinstance(a, int) and isinstance(b, int) else tf.minimum(a, b)


def _maximum(a, b):
    return max(a, b) if isinstance(a, int) and isinstance(b, int) else tf.maximum(a, b)


def _first(condition, numbers, axis):
    """Least of the numbers for which the condition holds along an axis.

    A plain minimum is vectorized on the CPU, which argmin is not.
    """
    return tf.reduce_min(tf.where(condition, numbers, tf.int32.max), axis=axis)


def _gather(tensor, index):
    """tensor[b, index[b, j]]."""
    return tf.gather(tensor, index, batch_dims=1)


def _scatter(values, index, size):
    """Sums values[b, j] into rows index[b, j] of a tensor (B, size, C)."""
    batch = tf.shape(values)[0]
    flat = index + tf.range(batch)[:, None] * size
    channels = values.shape[2]
    sums = tf.math.unsorted_segment_sum(
        tf.reshape(values, [-1, channels]), tf.reshape(flat, [-1]), batch * size
    )
    return tf.reshape(sums, [batch, size, channels])
