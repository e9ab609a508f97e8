"""The cut on an accelerator: exactly the k best of all scores, by index, without a sort and without the host.

Floats order as their bits do, read as integers, once those of negative numbers are turned round. So the k-th largest
score is found bit by bit: each of 32 passes (64 for float64, 16 for halves) counts how many scores are not below a
candidate. Among equal scores the lower index wins: a cumulative sum over the tensors tells how many of its ties each of
them keeps, and as many passes as an index has bits find where they end. All of it is counting, which XLA fuses into one
reading of the scores per pass, so that besides them it holds one copy of integers, and the marks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

_INTEGERS = {2: tf.int16, 4: tf.int32, 8: tf.int64}


def select(
    scores: Sequence[tf.Tensor],
    quotas: tf.Tensor | None,
    rest: tf.Tensor | None,
    eligible: Sequence[tf.Tensor] | None = None,
) -> list[tf.Tensor]:
    """Marks the best of each tensor, and then the best of all that is left, as `selection.select` does.

    May be traced and compiled by XLA: nothing depends on values but the number of passes.

    Args:
        scores: One tensor of floats without NaN for each weight tensor, of one float type.
        quotas: int64 of shape (tensors,): how many of each tensor to mark first; None for none.
        rest: An int64 scalar: how many of all others to mark then; None for none.
        eligible: Boolean tensors of the same shapes that mark which scores count; None for all. There must be as many
            as are to be marked.

    Returns:
        Boolean tensors of the shapes of the scores.
    """
    keys = [ordered_integers(tf.reshape(each, [-1])) for each in scores]
    lowest = tf.constant(keys[0].dtype.min, keys[0].dtype)  # the key of no number
    if eligible is not None:
        keys = [tf.where(tf.reshape(may, [-1]), key, lowest) for key, may in zip(keys, eligible)]
    keep = None
    if quotas is not None:
        keep = _best(keys, quotas)
    if rest is not None and keep is not None:
        keys = [tf.where(taken, lowest, key) for key, taken in zip(keys, keep)]
        keep = [taken | more for taken, more in zip(keep, _best(keys, rest))]
    elif rest is not None:
        keep = _best(keys, rest)
    return [tf.reshape(marks, each.shape) for marks, each in zip(keep, scores)]


def ordered_integers(scores: tf.Tensor) -> tf.Tensor:
    """Returns integers of the size of the floats that order as these do; -0.0 equals 0.0, and only NaN has the lowest.

    Floats themselves would not do: where processors take denormal numbers for zero they would tie.
    """
    bits = tf.bitcast(scores, _INTEGERS[scores.dtype.size])
    bits = tf.where(tf.equal(bits, bits.dtype.min), tf.zeros([], bits.dtype), bits)
    turned = tf.bitwise.bitwise_xor(bits, tf.constant(bits.dtype.max, bits.dtype))
    return tf.where(bits < 0, turned, bits)


def _best(keys: Sequence[tf.Tensor], count: tf.Tensor) -> list[tf.Tensor]:
    """Marks the largest keys: so many of all where `count` is one number, and so many of each where it is a vector."""
    together = count.shape.rank == 0
    dtype, size = keys[0].dtype, len(keys)

    def numbers(marks_of: Callable[[int], tf.Tensor]) -> tf.Tensor:
        each = [tf.reduce_sum(tf.cast(marks_of(i), tf.int32)) for i in range(size)]
        return tf.cast(tf.stack(each), tf.int64)

    def per_tensor(value: tf.Tensor) -> tf.Tensor:
        return tf.broadcast_to(value, [size])

    def not_below(bounds: tf.Tensor) -> tf.Tensor:
        bounds = per_tensor(bounds)
        found = numbers(lambda i: keys[i] >= bounds[i])
        return tf.reduce_sum(found) if together else found

    # The largest bound that enough keys reach. The sign is the first bit: setting it leads from the lowest to zero.
    threshold = _largest(
        lambda bound: not_below(bound) >= count, tf.fill(count.shape, tf.constant(dtype.min, dtype)), dtype.size * 8
    )
    threshold = per_tensor(threshold)
    ties = numbers(lambda i: tf.equal(keys[i], threshold[i]))
    above = numbers(lambda i: keys[i] > threshold[i])
    if together:
        before = tf.cumsum(ties, exclusive=True)
        missing = tf.clip_by_value(count - tf.reduce_sum(above) - before, tf.zeros_like(ties), ties)
    else:
        missing = count - above

    places = [tf.range(key.shape[0]) for key in keys]

    def fits(ends: tf.Tensor) -> tf.Tensor:
        return numbers(lambda i: tf.equal(keys[i], threshold[i]) & (places[i] < ends[i])) <= missing

    longest = max(key.shape[0] for key in keys)
    split = tf.reduce_any((missing > 0) & (missing < ties))
    ends = _largest(fits, tf.zeros([size], tf.int32), longest.bit_length(), needed=split)
    ends = tf.where(tf.equal(missing, ties), longest, tf.where(tf.equal(missing, 0), 0, ends))
    return [
        (key > threshold[i]) | (tf.equal(key, threshold[i]) & (place < ends[i]))
        for i, (key, place) in enumerate(zip(keys, places))
    ]


def _largest(
    holds: Callable[[tf.Tensor], tf.Tensor], smallest: tf.Tensor, bits: int, needed: tf.Tensor | bool = True
) -> tf.Tensor:
    """Returns the largest integers for which a condition holds that holds for small ones, bit by bit from the highest.

    Args:
        holds: Takes integers and returns booleans of their shape.
        smallest: The smallest integers, for which it holds.
        bits: How many bits may change.
        needed: If false, nothing is done.
    """

    def step(bit, value):
        candidate = tf.bitwise.bitwise_xor(value, tf.bitwise.left_shift(tf.ones([], value.dtype), bit))
        return bit - 1, tf.where(holds(candidate), candidate, value)

    first = tf.constant(bits - 1, smallest.dtype)
    _, found = tf.while_loop(lambda bit, value: needed & (bit >= 0), step, (first, smallest))
    return found
