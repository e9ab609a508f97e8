"""Has pruning cut the network in two? Found out by trying it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from force_tf.models.keras_models import input_specs, preserved_variables
from force_tf.models.weights import PrunableWeight
from force_tf.support.arrays import row_count, take_rows

_ROWS = 16
_BFLOAT16_EPS = 2.0**-7  # which np.finfo does not know


class LayerCollapseWarning(UserWarning):
    """The output of a pruned network no longer depends on its input."""


class CollapsedError(ValueError):
    """A network whose output does not depend on its input has no part that could be kept."""


def probe_inputs(model: Any, batches: Any, random: np.random.Generator) -> Any | None:
    """Returns a few rows to try a model on: real ones if they differ, else random ones; None if no shape is known.

    A model of a fixed batch size is tried on so many rows.
    """
    count = _fixed_batch_size(model) or _ROWS
    if batches is not None:
        rows = tf.nest.map_structure(
            lambda leaf: take_rows(leaf, np.arange(min(count, row_count(leaf)))), batches.first.x
        )
        if all(row_count(leaf) > 1 for leaf in tf.nest.flatten(rows)):
            return rows
    try:
        specs = input_specs(model, batches)
    except ValueError:
        return None

    def draw(spec):
        shape = [count, *spec.shape[1:]]
        if spec.dtype == tf.string:
            return tf.constant(random.integers(0, 10, shape).astype(str))
        if spec.dtype.is_floating:
            return tf.constant(random.standard_normal(shape), spec.dtype)
        return tf.constant(random.integers(0, 2, shape), spec.dtype)  # indices that every table has

    return tf.nest.map_structure(draw, specs)


def _fixed_batch_size(model: Any) -> int | None:
    sizes = {tensor.shape[0] for tensor in tf.nest.flatten(getattr(model, "inputs", None) or []) if len(tensor.shape)}
    return max((size for size in sizes if size is not None), default=None)


def collapsed_weights(
    model: Any, weights: Sequence[PrunableWeight], masks: Sequence[np.ndarray], inputs: Any
) -> list[str]:
    """Says which weights are to blame if the pruned network's output no longer depends on its input.

    Skip connections make a layer without weights harmless, so the network is run in inference mode rather than its
    weights counted: it has collapsed if one of its outputs is the same for the rows and for copies of the first row,
    and is not so without masks.

    Args:
        model: The Keras model with its dense weights; it comes back as it was.
        weights: Its prunable weights.
        masks: One boolean array per weight.
        inputs: A batch to try it on.

    Returns:
        The paths of the weights that keep nothing, else of the three that keep the smallest part; an empty list if the
        network has not collapsed.
    """
    with preserved_variables(model):
        dense = ignored_inputs(model, inputs)
        for weight, mask in zip(weights, masks):
            weight.variable.assign(tf.where(mask, weight.variable, 0))
        masked = ignored_inputs(model, inputs)
    if not any(now and not before for now, before in zip(masked, dense)):
        return []
    empty = [weight.path for weight, mask in zip(weights, masks) if not mask.any()]
    thinnest = sorted(range(len(weights)), key=lambda i: masks[i].mean())[:3]
    return empty or [weights[i].path for i in sorted(thinnest)]


def ignored_inputs(model, inputs) -> list[bool]:
    """For each output: does it stay the same, up to rounding, when the first row takes the place of every row?

    Comparing the rows of one output would take the different rounding of equal rows, which grows from layer to layer,
    for a dependence on the input. Here both sides add up the same numbers in the same places.
    """
    copies = tf.nest.map_structure(lambda leaf: take_rows(leaf, np.zeros(row_count(leaf), int)), inputs)
    outputs = [tf.nest.flatten(model(rows, training=False)) for rows in (inputs, copies)]
    ignored = []
    for output, of_copies in zip(*outputs):
        values, others = (np.asarray(tf.cast(part, tf.float64)) for part in (output, of_copies))
        spread = np.abs(values - others).max(initial=0.0)
        ignored.append(bool(spread <= 2 * _eps(output.dtype) * np.abs(values).max(initial=0.0)))
    return ignored


def _eps(dtype: tf.DType) -> float:
    """Returns the spacing of a type's numbers from 1 on."""
    if dtype == tf.bfloat16:
        return _BFLOAT16_EPS
    return float(np.finfo(dtype.as_numpy_dtype).eps) if dtype.is_floating else 0.0


def collapse_message(paths: Sequence[str], masks: dict[str, np.ndarray]) -> str:
    """Returns the text of the warning: what happened, where, and what helps."""
    kept = ", ".join(f"{path} (keeps {np.count_nonzero(masks[path]):,} of {masks[path].size:,})" for path in paths)
    return (
        f"The pruned network has collapsed: its output no longer depends on its input. Look at {kept}. What helps: a "
        "lower `sparsity`, more `steps`, more `batches`, `min_per_layer=`, `scope='layer'`, or a method that keeps "
        "every layer alive, such as 'synflow'."
    )
