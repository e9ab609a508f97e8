"""What a model trains on: the loss that it is compiled with, those that layers add, or one that it computes itself."""

from __future__ import annotations

import contextlib
import copy
import inspect
from typing import Any

import keras
import tensorflow as tf

from force_tf.models.keras_models import compile_arguments, keras_of, overrides
from force_tf.models.regularizers import ZeroRegularizers, without_regularizers
from force_tf.objective.batches import Batch, Batches
from force_tf.objective.distribution import distribution_of_model
from force_tf.objective.losses import DataLoss
from force_tf.objective.parts import check_adds_up, sum_of_parts


class Objective:
    """The loss that `fit` minimizes on a batch, without regularizers.

    That is `compute_loss` where the model has one of its own. Otherwise it is the sum of the loss that the model is
    compiled with and of what its layers add by `add_loss` when they are called. A loss that is given is the objective
    by itself.

    Args:
        model: A Keras model.
        loss: A loss as for `DataLoss`; None for what the model trains on.

    Attributes:
        caveat: What the user should know of what is scored, or None.

    Raises:
        ValueError: If there is no loss, or a name is unknown.
        TypeError: If a loss is none of these, or of the other Keras.
    """

    def __init__(self, model: keras.Model, loss: Any = None):
        compiled = compile_arguments(model)
        self._adds = loss is None
        self._is_computed_by_model = loss is None and bool(compiled) and overrides(model, "compute_loss")
        is_added_alone = loss is None and bool(compiled) and compiled.get("loss") is None
        has_data_loss = not (self._is_computed_by_model or is_added_alone)
        self._data_loss = DataLoss(model, loss) if has_data_loss else None
        self._has_own_step = loss is None and not self._is_computed_by_model and overrides(model, "train_step")
        self._distribution = distribution_of_model(model)
        # As `fit` does of arrays. A loss of Keras's casts them itself.
        self._float_dtype = None if has_data_loss else keras_of(model).backend.floatx()
        self.caveat: str | None = None
        if self._has_own_step:
            what = "its compiled loss" if has_data_loss else "what its layers add by `add_loss`"
            self.caveat = (
                f"The model {model.name!r} trains by a `train_step` of its own, which a search cannot look into: "
                f"{what} is scored. Pass `loss=` if it trains on another one."
            )

    def with_temperature(self, temperature: float) -> Objective:
        """Returns the same objective with the logits of its cross-entropies divided by `temperature`.

        What layers add and what the model computes itself is taken as it is.
        """
        other = copy.copy(self)
        if other._data_loss is not None:
            other._data_loss = other._data_loss.with_temperature(temperature)
        return other

    def with_linear_error(self) -> Objective:
        """Returns Σ |t − o| over the outputs in place of the loss of the data, and nothing that layers add.

        Raises:
            ValueError: If targets are not compared with outputs by a loss.
        """
        if self._data_loss is None:
            raise ValueError(
                "Expected a model that is compiled with a loss, or `loss=`, since its targets are compared with its "
                "outputs by |t − o|. Received: a model that computes its loss itself, or whose layers add it"
            )
        other = copy.copy(self)
        other._data_loss, other._adds = self._data_loss.with_linear_error(), False
        return other

    def __call__(
        self, model: keras.Model, x: Any, y: Any = None, sample_weight: Any = None, *, regularizers: bool = False
    ) -> tf.Tensor:
        """Returns the scalar objective of a batch, in training mode.

        Args:
            model: The model, or a copy of it.
            x: The inputs.
            y: The targets.
            sample_weight: The sample weights, or None.
            regularizers: Whether to add the regularizers, and all else that `add_loss` adds, as `fit` does.

        Raises:
            ValueError: If targets do not fit the outputs, or there is nothing to score.
            TypeError: If a loss returns no tensor.
        """
        stand_in = ZeroRegularizers()
        with contextlib.nullcontext() if regularizers else without_regularizers(model, stand_in):
            outputs = model(x, training=True)
            if self._is_computed_by_model:
                check_adds_up("what a model computes by a `compute_loss` of its own")
                # In `fit` replicas add up what this returns.
                return sum_of_parts(_loss_of_model(model, x, y, outputs, sample_weight))
            # First, since other replicas' threads may take over, and call the model, when counts are added up.
            added = list(model.losses) if self._adds or regularizers else []
            loss = None if self._data_loss is None else self._data_loss(y, outputs, sample_weight)
            terms = [] if loss is None else [loss]
            if self._adds and len(added) > stand_in.entries:
                check_adds_up("what layers add by `add_loss`")
            if not terms and len(added) == stand_in.entries:
                raise ValueError(self._nothing_to_score(model))
            dtype = (terms + added)[0].dtype
            return tf.add_n([tf.cast(tf.reduce_sum(term), dtype) for term in terms + added])

    def batches(self, data: Any, batch_size: int = 128, seed: int | None = None) -> Batches:
        """Returns the batches of data, which must have targets if this objective needs them. Raises as `Batches`."""
        return Batches(
            data,
            batch_size,
            seed,
            check=self.check_targets,
            needs_targets=self._data_loss is not None,
            float_dtype=self._float_dtype,
            distribution=self._distribution,
        )

    def check_targets(self, batch: Batch) -> None:
        """Raises ValueError if targets are out of the range of their loss, as far as that is known: after tracing."""
        if self._data_loss is not None:
            self._data_loss.check_targets(batch)

    def _nothing_to_score(self, model) -> str:
        if self._has_own_step:
            return (
                "Expected `loss=`, since a search cannot look into the `train_step` that the model has of its own. "
                f"Received: loss=None and the model {model.name!r}, which is compiled without a loss"
            )
        return (
            "Expected a loss: compile the model with one, or pass `loss=`. "
            f"Received: loss=None and the model {model.name!r}, which has none and whose layers add none"
        )


def _loss_of_model(model, x, y, outputs, sample_weight) -> tf.Tensor:
    options = {}
    if keras_of(model) is keras and "training" in inspect.signature(model.compute_loss).parameters:
        options["training"] = True
    try:
        value = model.compute_loss(x, y, outputs, sample_weight, **options)
    except Exception as error:  # whatever the user's code makes of None
        if y is not None:
            raise
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(
            f"Expected data with targets, which the `compute_loss` of the model {model.name!r} seems to need "
            f"({reason}). Received: batches without them"
        ) from error
    if value is None:
        raise TypeError(
            f"Expected a `compute_loss` that returns a tensor. Received: None from that of the model {model.name!r}"
        )
    return tf.reduce_sum(value)
