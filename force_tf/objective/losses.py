"""The loss that is scored: what the model trains with, on the data alone, without regularizers."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from force_tf.models import keras_internals
from force_tf.models.keras_models import check_same_keras, compile_arguments, keras_of
from force_tf.objective.batches import Batch
from force_tf.objective.linear_error import linear_error
from force_tf.objective.parts import check_adds_up, mean_of_parts, sum_of_parts

_SPARSE = ("SparseCategoricalCrossentropy", "sparse_categorical_crossentropy")
_CATEGORICAL = ("CategoricalCrossentropy", "categorical_crossentropy")
_BINARY = ("BinaryCrossentropy", "binary_crossentropy")
# Losses that compare target and prediction element by element, where NumPy's broadcasting would hide a mistake.
_ELEMENTWISE = (
    *("MeanSquaredError", "mean_squared_error", "MeanAbsoluteError", "mean_absolute_error", "Huber", "huber"),
    *("MeanAbsolutePercentageError", "mean_absolute_percentage_error", "LogCosh", "log_cosh", "Poisson", "poisson"),
    *("MeanSquaredLogarithmicError", "mean_squared_logarithmic_error", "KLDivergence", "kl_divergence"),
    *("Hinge", "hinge", "SquaredHinge", "squared_hinge", "CategoricalHinge", "categorical_hinge"),
)


class DataLoss:
    """The loss of a batch as `fit` would compute it, but without regularizers and without touching the model's metrics.

    Args:
        model: A Keras model.
        loss: A loss of the model's Keras, its name, any `callable(y_true, y_pred)`, or a list or dict of these for
            several outputs (None for outputs that are not scored); None for the loss that the model is compiled with,
            with its loss weights.
        temperature: Divides the logits of cross-entropy losses; where the model ends in softmax or sigmoid, the
            log-probabilities or log-odds. Other losses are taken as they are.

    Raises:
        ValueError: If there is no loss, or a name is unknown.
        TypeError: If a loss is none of these, or of the other Keras.
    """

    def __init__(self, model: keras.Model, loss: Any = None, temperature: float = 1.0):
        self._output_names = getattr(model, "output_names", None)
        self._loss, self._loss_weights = _resolve(model, loss)
        self._temperature = temperature
        self._linear = False
        # The losses, targets and output shapes of the last call belong together; known once the loss has been traced.
        self._targets_of: Callable[[Any], list] | None = None
        self._terms: list[tuple[Any, tuple]] = []

    def with_temperature(self, temperature: float) -> DataLoss:
        """Returns the same loss with the logits of its cross-entropies divided by `temperature`."""
        other = copy.copy(self)
        other._temperature = temperature
        return other

    def with_linear_error(self) -> DataLoss:
        """Returns Σ |t − o| over the outputs in the place of every loss, of probabilities where that compares them."""
        other = copy.copy(self)
        other._linear = True
        return other

    def __call__(self, y: Any, y_pred: Any, sample_weight: Any = None) -> tf.Tensor:
        """Returns the scalar loss: the sum over the outputs of their losses, times their loss weights.

        Raises:
            ValueError: If targets do not fit the outputs. Their shapes are known when the loss is traced, so that this
                comes before any work.
        """
        outputs = tf.nest.flatten(y_pred)
        losses = self._by_output(self._loss, y_pred)
        scored = [position for position, loss in enumerate(losses) if loss is not None]
        targets = self._targets(y, y_pred, scored)
        factors = self._by_output(self._loss_weights, y_pred)
        weights = self._by_output(sample_weight, y_pred)
        self._terms = [(losses[position], tuple(outputs[position].shape)) for position in scored]
        self._targets_of = lambda other: self._targets(other, y_pred, scored)
        total = None
        for position, target in zip(scored, targets):
            output = outputs[position]
            _check_shape(losses[position], target, output)
            loss = _linear(losses[position]) if self._linear else losses[position]
            term = _ScoredLoss(loss, self._temperature, output.dtype)(target, output, weights[position])
            term = term if factors[position] is None else factors[position] * term
            total = term if total is None else total + term
        return total

    def check_targets(self, batch: Batch) -> None:
        """Raises ValueError if targets are out of the range of their loss, as far as that is known: after tracing."""
        if self._targets_of is None:
            return
        for (loss, shape), target in zip(self._terms, self._targets_of(batch.y)):
            _check_range(loss, target, shape)

    def _targets(self, y, y_pred, scored: list[int]) -> list:
        """The targets of the scored outputs; as in `fit`, those of other outputs may be missing."""
        targets = tf.nest.flatten(y) if not isinstance(y, dict) else self._by_output(y, y_pred)
        count = len(tf.nest.flatten(y_pred))
        if len(targets) == count:
            targets = [targets[position] for position in scored]
        if len(targets) != len(scored) or any(target is None for target in targets):
            raise ValueError(
                f"Expected targets for each of the model's {count} outputs, in their structure. "
                f"Received: targets with the structure {tf.nest.map_structure(lambda leaf: '*', y)}"
            )
        return targets

    def _by_output(self, structure: Any, y_pred: Any) -> list:
        """Lists a structure in the order of the flat outputs. A single value counts for each of them."""
        count = len(tf.nest.flatten(y_pred))
        if isinstance(structure, dict):
            names = sorted(y_pred) if isinstance(y_pred, dict) else self._output_names or []
            unknown = set(structure) - set(names)
            if unknown:
                raise ValueError(
                    "Expected losses, targets and weights under the names of the outputs "
                    f"({', '.join(names) or 'this model has none'}). Received: {', '.join(sorted(map(str, unknown)))}"
                )
            return [structure.get(name) for name in names]
        if isinstance(structure, (list, tuple)):
            if len(structure) != count:
                raise ValueError(f"Expected one entry for each of the model's {count} outputs. Received: {structure!r}")
            return list(structure)
        return [structure] * count


def _resolve(model, loss) -> tuple[Any, Any]:
    def check(leaf):
        return _check_loss(model, leaf)

    if loss is not None:
        return _map_leaves(check, loss), None
    compiled = compile_arguments(model)
    if compiled.get("loss") is None:
        raise ValueError(
            "Expected a loss: compile the model with one, or pass `loss=`. "
            f"Received: loss=None and the model {model.name!r}, which has none"
        )
    return _map_leaves(check, compiled["loss"]), compiled.get("loss_weights")


def _map_leaves(function: Callable, loss: Any) -> Any:
    if isinstance(loss, dict):
        return {key: _map_leaves(function, leaf) for key, leaf in loss.items()}
    if isinstance(loss, (list, tuple)):
        return type(loss)(_map_leaves(function, leaf) for leaf in loss)
    return None if loss is None else function(loss)


def _check_loss(model, leaf):
    if isinstance(leaf, str):
        try:
            return keras_of(model).losses.get(leaf)
        except ValueError:
            raise ValueError(f"Expected the name of a Keras loss. Received: loss={leaf!r}") from None
    if not callable(leaf):
        raise TypeError(f"Expected a Keras loss, its name, or a callable(y_true, y_pred). Received: loss={leaf!r}")
    check_same_keras(model, loss=leaf)
    return leaf


def _name(leaf) -> str:
    """The name of a Keras loss, as a class or a function; of other callables the empty string."""
    kind = type(leaf) if _is_loss(leaf) else leaf
    for cls in getattr(kind, "__mro__", (kind,)):
        if getattr(cls, "__module__", "").startswith(("keras.", "tf_keras.")):
            return getattr(cls, "__name__", "")
    return ""


def _is_loss(leaf) -> bool:
    module = keras_of(leaf)
    return module is not None and isinstance(leaf, module.losses.Loss)


class _ScoredLoss(keras.losses.Loss):
    """A loss of either Keras, computed in the precision of the predictions, its logits divided by a temperature.

    Both Kerases weight and reduce alike, so Keras 3 does it for both.
    """

    def __init__(self, base: Any, temperature: float, dtype: tf.DType):
        is_loss = _is_loss(base)
        # Keras computes losses in floatx, which would round the predictions of a float64 model to float32.
        dtype = "float64" if dtype == tf.float64 else getattr(base, "dtype", None) if is_loss else None
        reduction = base.reduction if is_loss else "auto"
        super().__init__("scored_loss", "sum_over_batch_size" if reduction == "auto" else reduction, dtype)
        self._base = base
        self._function = base.call if is_loss else base
        self._temperature = temperature
        self._is_reduced = False

    def __call__(self, y_true, y_pred, sample_weight=None):
        value = super().__call__(y_true, y_pred, sample_weight)
        if self._is_reduced:  # by the function itself; replicas take it for a mean over their rows
            check_adds_up("a loss that reduces its rows itself")
            return value
        if self.reduction in (None, "none", "sum"):
            return sum_of_parts(tf.reduce_sum(value))
        # Inside the scope of a strategy Keras divides means by the replicas.
        value = keras_internals.without_replica_scaling(value)
        by_weight = self.reduction == "mean_with_sample_weight" and sample_weight is not None
        if not by_weight and keras_internals.keras_mask(y_pred) is None:
            return value
        count = _Count(self._base, self._temperature, y_pred.dtype)
        return mean_of_parts(value, lambda: count(y_true, y_pred, sample_weight if by_weight else None))

    def call(self, y_true, y_pred):
        y_true, y_pred = _same_rank(y_true, y_pred)
        value = self._function(y_true, _tempered(self._base, y_pred, self._temperature))
        if value is None:
            raise TypeError(f"Expected a loss that returns a tensor. Received: None from {self._base!r}")
        self._is_reduced = not len(value.shape)
        return value


def _linear(loss: Any) -> Callable[[Any, Any], tf.Tensor]:
    """Returns the linear error of what a loss compares."""
    name = _name(loss)
    logits = name in _SPARSE + _CATEGORICAL + _BINARY and keras_internals.loss_argument(loss, "from_logits", False)
    return functools.partial(
        linear_error,
        classes=name in _SPARSE,
        probabilities=None if not logits else "sigmoid" if name in _BINARY else "softmax",
        axis=keras_internals.loss_argument(loss, "axis", -1) if name in _SPARSE + _CATEGORICAL else -1,
    )


class _Count(_ScoredLoss):
    """What a mean loss divides by where that is not the size of the batch: the sum of weights or of a mask."""

    def __init__(self, base: Any, temperature: float, dtype: tf.DType):
        super().__init__(base, temperature, dtype)
        self.reduction = "sum"

    def __call__(self, y_true, y_pred, sample_weight=None):
        return keras.losses.Loss.__call__(self, y_true, y_pred, sample_weight)

    def call(self, y_true, y_pred):
        return tf.ones_like(super().call(y_true, y_pred))


def _same_rank(y_true, y_pred):
    """Lets targets of shape (n,) meet predictions of shape (n, 1) and the other way round, as in `fit`."""
    if y_true.shape.rank is None or y_pred.shape.rank is None:
        return y_true, y_pred
    if y_true.shape.rank == y_pred.shape.rank - 1 and y_pred.shape[-1] == 1:
        return tf.expand_dims(y_true, -1), y_pred
    if y_true.shape.rank == y_pred.shape.rank + 1 and y_true.shape[-1] == 1:
        return tf.squeeze(y_true, -1), y_pred
    return y_true, y_pred


def _tempered(loss, y_pred, temperature: float):
    if temperature == 1.0 or _name(loss) not in _SPARSE + _CATEGORICAL + _BINARY:
        return y_pred
    if keras_internals.loss_argument(loss, "from_logits", False):
        return y_pred / temperature
    # softmax(log p / T) = softmax(z / T), since log p differs from the logits z by a constant per row. A high
    # temperature makes probabilities nearly equal, which 16 bits would round to the same number.
    y_pred = tf.cast(y_pred, tf.float32) if y_pred.dtype.size < tf.float32.size else y_pred
    smallest = np.finfo(y_pred.dtype.as_numpy_dtype).tiny
    if _name(loss) in _BINARY:
        odds = tf.math.log(tf.maximum(y_pred, smallest)) - tf.math.log(tf.maximum(1.0 - y_pred, smallest))
        return tf.sigmoid(odds / temperature)
    axis = keras_internals.loss_argument(loss, "axis", -1)
    return tf.nn.softmax(tf.math.log(tf.maximum(y_pred, smallest)) / temperature, axis=axis)


def _check_shape(loss, target, output) -> None:
    name, shape = _name(loss), tuple(output.shape)
    if name in _SPARSE:
        allowed = [shape[:-1], (*shape[:-1], 1)]
    elif name in _CATEGORICAL + _BINARY + _ELEMENTWISE:
        allowed = [shape, shape[:-1]] if shape[-1:] == (1,) else [shape]
    else:
        return
    if not any(target.shape.is_compatible_with(other) for other in allowed):
        raise ValueError(
            f"Expected targets of shape {' or '.join(map(str, allowed))} for the loss {name} and an output of shape "
            f"{shape}. Received: targets of shape {tuple(target.shape)}"
        )


def _check_range(loss, target: tf.Tensor, output: tuple) -> None:
    name, values = _name(loss), np.asarray(target)
    if name in _SPARSE:
        ignored = keras_internals.loss_argument(loss, "ignore_class", None)
        values = values if ignored is None else values[values != ignored]
        low, high, what = 0, output[-1] - 1, f"class indices from 0 to {output[-1] - 1}"
    elif name in _CATEGORICAL + _BINARY:
        low, high, what = 0, 1, "probabilities from 0 to 1"
    else:
        low, high, what = -np.finfo(np.float64).max, np.finfo(np.float64).max, "finite numbers"
    if values.dtype.kind not in "iufb" or not values.size:
        return
    smallest, largest = values.min(), values.max()
    # Written so that NaN fails too.
    if not (low <= smallest and largest <= high):
        raise ValueError(
            f"Expected targets that are {what}, for {name or 'the loss'}. Received: {smallest} to {largest}"
        )
