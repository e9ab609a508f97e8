"""Has pruning cut the network in two? Found out by trying it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from force_tf.models.keras_models import fixed_batch_size, input_specs
from force_tf.models.model_state import preserved_states, preserved_variables
from force_tf.models.weights import PrunableWeight
from force_tf.support.arrays import row_count, take_rows

_ROWS = 16
_BFLOAT16_EPS = 2.0**-7  # which np.finfo does not know


class LayerCollapseWarning(UserWarning):
    """The output of a pruned network no longer depends on its input."""


class ConstantOutputWarning(UserWarning):
    """An output of a network does not depend on its input, even before pruning."""


class CollapsedError(ValueError):
    """A network whose output does not depend on its input has no part that could be kept."""


class Probe(NamedTuple):
    """Two batches of as many rows to try a model on.

    Attributes:
        rows: Rows that differ.
        others: The first of them in the place of every row; where a batch has but one row, another one.
        is_telling: Whether a model that does not tell them apart ignores its input. Integers and strings that are drawn
            at random may all be unknown to the lookups of a model.
    """

    rows: Any
    others: Any
    is_telling: bool


@dataclasses.dataclass(frozen=True)
class Trial:
    """What came of trying a pruned network.

    Attributes:
        blamed: The paths of the weights that keep nothing, else of the three that keep the smallest part, if an output
            depends on the input no longer; empty if the network has not collapsed.
        constant_outputs: The names of the outputs that do not depend on the input without masks either.
        output_count: How many outputs there are.
    """

    blamed: list[str]
    constant_outputs: list[str]
    output_count: int


def probe_inputs(model: Any, batches: Any, random: np.random.Generator) -> Probe | None:
    """Returns what to try a model on: real rows if they differ, else random ones; None if no shape is known.

    A model of a fixed batch size is tried on so many rows.
    """
    count = fixed_batch_size(model) or _ROWS
    if batches is not None:
        rows = tf.nest.map_structure(
            lambda leaf: take_rows(leaf, np.arange(min(count, row_count(leaf)))), batches.first.x
        )
        if _rows_differ(rows):
            return Probe(rows, _copies_of_first(rows), is_telling=True)
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

    rows = tf.nest.map_structure(draw, specs)
    others = _copies_of_first(rows) if count > 1 else tf.nest.map_structure(draw, specs)
    return Probe(rows, others, is_telling=all(spec.dtype.is_floating for spec in tf.nest.flatten(specs)))


def _rows_differ(rows: Any) -> bool:
    leaves = tf.nest.flatten(rows)
    if any(row_count(leaf) < 2 for leaf in leaves):
        return False
    # Rows of sparse and ragged arrays are hardly ever equal.
    return any(not isinstance(leaf, tf.Tensor) or bool(tf.reduce_any(leaf[1:] != leaf[:1])) for leaf in leaves)


def _copies_of_first(rows: Any) -> Any:
    return tf.nest.map_structure(lambda leaf: take_rows(leaf, np.zeros(row_count(leaf), np.int64)), rows)


def try_masks(model: Any, weights: Sequence[PrunableWeight], masks: Sequence[np.ndarray], probe: Probe) -> Trial:
    """Tries whether a network's outputs depend on its input, pruned and not.

    Skip connections make a layer without weights harmless, so the network is run in inference mode rather than its
    weights counted: it has collapsed if one of its outputs is the same for the rows and for copies of the first row,
    and is not so without masks.

    Args:
        model: The Keras model with its dense weights; it comes back as it was.
        weights: Its prunable weights.
        masks: One boolean array per weight.
        probe: What to try it on.
    """
    with preserved_variables(model):
        dense = _responses(model, probe)
        for weight, mask in zip(weights, masks):
            weight.variable.assign(tf.where(mask, weight.variable, 0))
        masked = _responses(model, probe)
    constant = [response.output for response in dense if probe.is_telling and response.is_none]
    if not any(now.is_rounding and not before.is_rounding for now, before in zip(masked, dense)):
        return Trial([], constant, len(dense))
    empty = [weight.path for weight, mask in zip(weights, masks) if not mask.any()]
    thinnest = sorted(range(len(weights)), key=lambda i: masks[i].mean())[:3]
    return Trial(empty or [weights[i].path for i in sorted(thinnest)], constant, len(dense))


class _Response(NamedTuple):
    """What becomes of an output when others take the place of some rows.

    Attributes:
        output: The name of the output, or its number.
        is_none: Whether nothing does: not a bit of its real numbers changes.
        is_rounding: Whether it changes by no more than rounding.
    """

    output: str
    is_none: bool
    is_rounding: bool


def ignored_inputs(model: Any, probe: Probe) -> list[bool]:
    """Returns for each output of a model whether it is the same, up to rounding, for both batches of a probe."""
    return [response.is_rounding for response in _responses(model, probe)]


def _responses(model: Any, probe: Probe) -> list[_Response]:
    """Compares each output for the rows and for the first row in the place of every row.

    Comparing the rows of one output would take the different rounding of equal rows, which grows from layer to layer,
    for a dependence on the input. Here both sides add up the same numbers in the same places.
    """
    outputs = []
    for rows in (probe.rows, probe.others):
        with preserved_states(model):  # which starts both times from the same ones
            outputs.append(model(rows, training=False))
    pairs = list(zip(*map(tf.nest.flatten, outputs)))
    responses = []
    for name, (output, of_others) in zip(_output_names(model, outputs[0], len(pairs)), pairs):
        values, others = (np.asarray(tf.cast(part, tf.float64)) for part in (output, of_others))
        change = np.abs(values - others).max(initial=0.0)
        rounding = 2 * _eps(output.dtype) * np.abs(values).max(initial=0.0)
        responses.append(_Response(name, bool(output.dtype.is_floating and change == 0.0), bool(change <= rounding)))
    return responses


def _output_names(model: Any, outputs: Any, count: int) -> list[str]:
    names = sorted(outputs) if isinstance(outputs, dict) else getattr(model, "output_names", None) or []
    return list(map(str, names if len(names) == count else range(count)))


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


def constant_output_message(trial: Trial) -> str:
    """Returns the text of the warning: which outputs ignore the input, and what helps."""
    return (
        f"{constant_outputs(trial)}, so that a loss says little about the weights: look for layers that start at zero, "
        "dead or saturated activations and a softmax over one unit, and search with trained or perturbed weights there."
    )


def constant_outputs(trial: Trial) -> str:
    """Returns the beginning of a sentence: which outputs ignore the input."""
    if trial.output_count == 1:
        return "Even without pruning the network's output does not depend on its input"
    names = ", ".join(map(repr, trial.constant_outputs))
    several = len(trial.constant_outputs) > 1
    outputs, do = ("outputs", "do") if several else ("output", "does")
    return f"Even without pruning the network's {outputs} {names} {do} not depend on its input"
