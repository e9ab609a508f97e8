"""The masks, weights and optimizer state of a wrapped model while it trains."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from force_tf.granularity import split
from force_tf.layers import is_pruned
from force_tf.layers.masking import Forward, MaskedWeight, MaskHolder, masked
from force_tf.models import keras_internals
from force_tf.models.model_state import preserved_variables
from force_tf.models.paths import mask_wrappers
from force_tf.models.prunable import all_prunable_weights
from force_tf.models.weights import PrunableWeight
from force_tf.training.drop_and_grow import Update


class LiveMasks:
    """The masks of a model that trains, all in one flat array, tensor after tensor in model order.

    Weights of layers that are frozen keep their masks, and are not among them.

    Args:
        model: A model of either Keras, wrapped by `apply_masks`.
        optimizer: What trains it.

    Attributes:
        weights: The weights whose masks may move.
        sizes: Their sizes.
        optimizer: What trains them; of mixed precision the one inside the one that scales losses.

    Raises:
        ValueError: If the model has no masks, or those of tfmot's own wrappers.
    """

    def __init__(self, model: Any, optimizer: Any):
        if not is_pruned(model):
            raise ValueError(
                "Expected a model with masks: make it by `pruned = force_tf.apply_masks(model)`, which prunes nothing "
                f"yet, and train `pruned`. Received: {model.name!r}, which has no masks"
            )
        self.model = model
        self.optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of mixed precision, which scales losses
        self._held = dict(_masked_weights(model))
        self.weights: Sequence[PrunableWeight] = [w for w in all_prunable_weights(model) if w.path in self._held]
        if not self.weights:
            raise ValueError(
                f"Expected masks on at least one weight that trains. Received: {model.name!r}, of which all masked "
                "layers are frozen"
            )
        self.sizes = [weight.size for weight in self.weights]
        self._slots: dict[int, list[Any]] = {}
        self._check_optimizer()

    def _check_optimizer(self) -> None:
        """Raises if the optimizer remembers of weights what cannot be made zero weight by weight."""
        optimizer = self.optimizer
        trained = list(self.model.trainable_variables)
        if not keras_internals.is_legacy_optimizer(optimizer):  # which makes its variables as it goes
            with self.model.distribute_strategy.scope():
                optimizer.build(trained)
        names = keras_internals.optimizer_state_out_of_reach(optimizer, trained)
        if names:
            raise ValueError(
                "Expected an optimizer that remembers each weight by itself, such as SGD, Adam or RMSprop, since what "
                f"it remembers of weights that move has to be made zero. Received: {type(optimizer).__name__}, with "
                f"{names[0]!r}"
            )

    def __iter__(self) -> Iterator[MaskedWeight]:
        """Yields what the wrappers hold for each of the weights."""
        return (self._held[weight.path] for weight in self.weights)

    def kept(self) -> np.ndarray:
        """Returns the masks, flat booleans."""
        # What a tensor holds is shared, and not copied as by `numpy()`.
        parts = (np.ravel(tf.convert_to_tensor(each.mask)) for each in self)
        return np.concatenate([part.astype(bool, copy=False) for part in parts])

    def remember(self, name: str, dtype: tf.DType, shape: Sequence[int] | None = None) -> list[tf.Variable]:
        """Returns variables of a name, one for each weight and of its shape or another, that files hold too."""
        with self.model.distribute_strategy.scope():
            return [
                each.remembered.variable(name, each.variable.shape if shape is None else shape, dtype) for each in self
            ]

    def variables(self, dtype: tf.DType) -> list[tf.Variable]:
        """Returns variables of the shapes of the weights, zeros, for as long as this training lasts."""
        return [self._variable(tf.zeros(each.variable.shape, dtype)) for each in self]

    def scalars(self, number: int) -> list[tf.Variable]:
        """Returns variables that hold a number each, zero, for as long as this training lasts."""
        return [self._variable(0.0) for _ in range(number)]

    def _variable(self, value: Any) -> tf.Variable:
        with self.model.distribute_strategy.scope():
            return tf.Variable(value, trainable=False, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA)

    @property
    def values(self) -> list[tf.Tensor]:
        """θ, also what trains under the masks, one tensor for each of the weights."""
        return [each.unmasked() if each.is_dense else tf.convert_to_tensor(each.variable) for each in self]

    def magnitudes(self) -> np.ndarray:
        """Returns |θ⊙m| of all weights, flat."""
        flat = np.concatenate([np.ravel(tf.convert_to_tensor(each.variable)) for each in self])
        return np.abs(flat, out=flat)

    def check_finite(self) -> None:
        """Raises if the training has diverged.

        Raises:
            ValueError: If a masked weight holds NaN or infinities; it names the first.
        """
        for weight, values in zip(self.weights, self.values, strict=True):
            count = weight.size - int(tf.math.count_nonzero(tf.math.is_finite(values)))
            if count:
                raise ValueError(
                    "Expected finite weights at an update of the masks: the training has diverged. Lower the learning "
                    f"rate, or clip the gradients. Received: {count} infinities or NaN in {weight.path!r} at step "
                    f"{int(self.optimizer.iterations)}"
                )

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Lends the network of the weights θ⊙m, in which pruned ones, which are zero, have gradients, for a block.

        All comes back afterwards, batch statistics and the seeds of Dropout too.
        """
        # Reading a weight shows θ⊙m.
        before = [(each, each.forward, each.is_dense, tf.convert_to_tensor(each.variable)) for each in self]
        with preserved_variables(self.model):
            try:
                for each, _, is_dense, kept in before:
                    each.set_forward(_unchanged)
                    if is_dense:
                        each.variable.assign(kept)
                    each.mask.assign(tf.ones(each.mask.shape, each.mask.dtype))
                yield
            finally:
                for each, forward, is_dense, _ in before:
                    each.set_forward(forward, is_dense)
        for each, _, is_dense, kept in before:
            if not is_dense:
                each.replace(kept)  # what was put back, which need not be masked when it is next read

    def remember_under_masks(self) -> None:
        """Lets files of the model keep what trains under the masks aside, from now on."""
        for each in self:
            each.remember_under_mask()

    def make_dense(self, forward: Sequence[Forward] | None) -> None:
        """Begins to train values under the masks, or ends it: they are zero then, and forgotten by the optimizer.

        Args:
            forward: For each weight, what calls of its layer compute with; None to end it.

        Raises:
            ValueError: If the optimizer or the model cannot.
        """
        if forward is not None and getattr(self.optimizer, "use_ema", False):
            raise ValueError(
                "Expected an optimizer without moving averages of the weights, since they would mix what shows with "
                f"what trains under the masks. Received: {type(self.optimizer).__name__} with use_ema=True"
            )
        if forward is not None and self.model.run_eagerly:
            raise ValueError(
                "Expected a model whose training steps are traced, since only these see what trains under the masks. "
                "Received: run_eagerly=True"
            )
        for each, function in zip(self, forward or [None] * len(self.sizes)):
            each.make_dense(function)
            if function is None:
                self._forget(each, tf.cast(each.mask, bool))

    def _forget(self, each: MaskedWeight, survivors: tf.Tensor) -> None:
        """Makes zero what the optimizer remembers of weights that do not survive."""
        for slot in self._slots_of(each):
            slot.assign(masked(slot, survivors))

    def _slots_of(self, each: MaskedWeight) -> list[Any]:
        if keras_internals.is_legacy_optimizer(self.optimizer):
            return keras_internals.optimizer_slots(self.optimizer, each.variable)
        if id(each) not in self._slots:
            self._slots[id(each)] = keras_internals.optimizer_slots(self.optimizer, each.variable)
        return self._slots[id(each)]

    def move(self, update: Update) -> None:
        """Sets the masks. What does not survive is zero, in the weights and in all that the optimizer remembers.

        Values that train under the masks stay as they are.
        """
        masks = zip(self, split(update.kept, self.weights), split(update.survivors, self.weights))
        for each, kept, survivors in masks:
            each.mask.assign(tf.cast(kept, each.mask.dtype))
            if not each.is_dense:
                survivors = tf.cast(survivors, each.variable.dtype)  # once, for all slots
                each.replace(masked(each.unmasked(), survivors))
                self._forget(each, survivors)


def _unchanged(value: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Returns θ, whose pruned entries are zero: masking it costs as much as some layers do."""
    return value


def _masked_weights(model: Any) -> Iterator[tuple[str, MaskedWeight]]:
    for path, wrapper in mask_wrappers(model):
        if not isinstance(wrapper, MaskHolder):
            raise ValueError(
                "Expected masks of `force_tf.apply_masks`; those of tensorflow-model-optimization are moved by its own "
                "callback. "
                f"Received: {path!r} in a {type(wrapper).__name__}"
            )
        for weight in wrapper.masked_weights:
            yield f"{path}/{weight.path}", weight
