"""`MaskedLayer` for the legacy tf_keras: a tfmot pruning wrapper whose pruned weights are, and stay, exactly zero.

Importing this module imports tensorflow-model-optimization (tfmot), so the rest of force_tf does it only when a model
of `tf_keras` is wrapped.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from force_tf.layers.masked_tf_variable import mask_variable, showing_all, unmask_variable
from force_tf.layers.masking import Forward, MaskedWeight, MaskHolder, mask_initializer, masked, relative_paths
from force_tf.layers.tfmot import PruneLowMagnitude, Pruning, PruningSchedule
from force_tf.layers.wrapper_config import check_inner_layer, check_wrapper_config
from force_tf.models import keras_internals


@dataclasses.dataclass(frozen=True)
class _MaskedWeight(MaskedWeight):
    threshold: tf.Variable

    def effective(self) -> tf.Tensor:
        """Returns θ⊙m in the dtype in which the owner reads its variable."""
        if self.forward is not None:
            value = self.forward(self.unmasked(), tf.convert_to_tensor(self.mask))
            return tf.cast(value, self.owner.compute_dtype) if self._is_cast else value
        with keras_internals.computing_like(self.owner):
            return masked(self.variable, self.mask)

    @property
    def _is_cast(self) -> bool:
        return keras_internals.without_autocast(self.variable) is not self.variable

    @property
    def forward(self) -> Forward | None:
        return self.variable.constraint.forward

    @property
    def is_dense(self) -> bool:
        return self.variable.constraint.is_dense

    def set_forward(self, forward: Forward | None, is_dense: bool = False) -> None:
        self.variable.constraint.forward, self.variable.constraint.is_dense = forward, is_dense

    def unmasked(self) -> tf.Tensor:
        with showing_all():
            return tf.convert_to_tensor(keras_internals.without_autocast(self.variable))

    def penalize(self, penalty: Callable[[tf.Tensor], tf.Tensor] | None) -> None:
        losses = keras_internals.function_losses(self.owner)
        losses[:] = [loss for loss in losses if getattr(loss, "variable", None) is not self.variable]
        if penalty is not None:
            losses.append(_Penalty(self.variable, penalty))

    def forget_pruned(self, optimizer: Any | None = None) -> None:
        self.variable.constraint.forget_pruned(self.variable, optimizer)

    def release(self) -> None:
        """Leaves θ⊙m in the variable, which nothing masks from then on."""
        self.penalize(None)
        unmask_variable(self.variable)
        _unmask_regularizer(self.owner, self.mask)


class KeepMasks(PruningSchedule):
    """A tfmot schedule that never prunes: the masks stay as they are set."""

    def __call__(self, step: Any) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.constant(False), tf.constant(0.0)

    def get_config(self) -> dict[str, Any]:
        return {"class_name": "KeepMasks", "config": {}}


@tf_keras.utils.register_keras_serializable(package="force_tf")
class MaskedLayer(MaskHolder, PruneLowMagnitude):
    """Wraps a tf_keras layer and holds a mask for some of its weights: `force_tf.MaskedLayer` for the legacy Keras.

    With a mask m over a weight θ, the layer computes with θ⊙m. Pruned weights (those where m is 0) are exactly zero and
    have a gradient of exactly zero. They are set to zero after every step of an optimizer.

    tfmot takes it for one of its own wrappers, with a schedule that never prunes: `strip_pruning`, `UpdatePruningStep`,
    `PruningSummaries`, clustering and quantization-aware training work on it. Unlike tfmot's own, it needs no callback,
    its weights are never dense in between, and `get_weights()` has the masks in it. It wraps any layer, and has the
    name of the layer.

    The masks are non-trainable weights of the weight's dtype, ones and zeros, that start all one. They are in
    `get_weights()` and in every file like other weights, and in `get_config()`, so that copies made of the
    configuration, such as those of `tf_keras.models.clone_model`, have new weights under the same masks.

    Args:
        layer: The `tf_keras.layers.Layer` to wrap. It may have sub-layers, as `LSTM` and `MultiHeadAttention` do.
        weights: Paths of the weights to mask, relative to the layer, such as `("kernel",)` or
            `("query/kernel", "value/kernel")`. None stands for all weights that are pruned by default.
        **kwargs: Arguments of `tf_keras.layers.Layer`.

    Raises:
        TypeError: If `weights` is a single string.
        ValueError: If `layer` is wrapped already, or (once it is built) has no such weight.

    Example:

    >>> layer = MaskedLayer(tf_keras.layers.Dense(2, name="logits"))
    >>> layer.build((None, 3))
    >>> layer.set_masks({"kernel": [[1, 0], [0, 0], [0, 1]]})
    >>> layer(np.ones((1, 3))).shape
    TensorShape([1, 2])
    """

    def __init__(self, layer: tf_keras.layers.Layer, weights: Iterable[str] | None = None, **kwargs: Any):
        paths = relative_paths(PruneLowMagnitude, layer, weights)
        if isinstance(layer, tf_keras.layers.Layer):  # if not, Wrapper says so
            kwargs = {
                "name": layer.name,
                "dtype": layer.dtype_policy,
                "trainable": layer.trainable,
                "autocast": keras_internals.autocasts(layer),
                **kwargs,
            }
        # tfmot's own constructor refuses the layers that tfmot does not know, gives the layer a new method, and the
        # wrapper another name.
        super(PruneLowMagnitude, self).__init__(layer, **kwargs)
        self.pruning_schedule = KeepMasks()
        self.pruning_obj = None
        self.weight_paths = paths
        self.sub_layer_names: tuple[str, ...] = ()
        self.masked_weights: list[_MaskedWeight] = []
        self.call_specs: str | None = None  # of the arguments of the first call
        self.supports_masking = layer.supports_masking
        # What Keras reads off `call` when it binds and fills in arguments: that of the layer, as ours takes anything.
        self._call_spec = keras_internals.call_spec(layer)
        shape = keras_internals.batch_input_shape(layer)
        if shape is not None:  # as the first layer of a Sequential model, which it tells its inputs
            self._batch_input_shape = shape

    @property
    def pruning_vars(self) -> list[tuple[tf.Variable, tf.Variable, tf.Variable]]:
        """What tfmot reads of a wrapper: (weight, mask, threshold) of each masked weight. Thresholds are zero."""
        return [(weight.variable, weight.mask, weight.threshold) for weight in self.masked_weights]

    def __call__(self, *args, **kwargs):
        if not self.masked_weights:
            specs = tf.nest.map_structure(_spec, [args, kwargs])
            self.call_specs = json.dumps(specs, default=_encode)
            self._trace_layer(*specs)
            self.build()
        return super().__call__(*args, **kwargs)

    def _trace_layer(self, args: Any, kwargs: dict[str, Any]) -> None:
        """Builds the layer as if it were not wrapped: some make their weights in `call` only."""
        self._restore_sub_layer_names()

        @tf.function
        def trace(args, kwargs):
            self.layer(*args, **kwargs)

        trace.get_concrete_function(args, kwargs)

    def build(self, input_shape: Any = None) -> None:
        """Builds the layer, if it is not, and the masks."""
        if self.masked_weights:
            return
        if self.call_specs is not None and not self.layer.built:  # a SavedModel is loaded
            self._trace_layer(*json.loads(self.call_specs, object_hook=_decode))
        with tf.init_scope(), tf.name_scope(self.name):  # the names of variables begin with the layer's
            if not self.layer.built:
                self.layer.build(input_shape)
                self.layer.built = True
            self._make_masks()
            self.pruning_step = self.add_weight(
                name="pruning_step",
                shape=(),
                initializer=tf_keras.initializers.Constant(-1),
                dtype="int64",
                trainable=False,
            )
        self.pruning_obj = _MaskedPruning(self)
        self.built = True

    def _add_mask(self, path: str, owner: Any, slot: str, mask: np.ndarray | None) -> _MaskedWeight:
        variable = vars(owner)[slot]
        name = path.replace("/", "_")
        options = {"dtype": getattr(variable, "true_dtype", variable.dtype), "trainable": False, "autocast": False}
        initializer = mask_initializer(mask)
        mask = self.add_weight(name=f"{name}_mask", shape=variable.shape, initializer=initializer, **options)
        threshold = self.add_weight(name=f"{name}_threshold", shape=(), initializer="zeros", **options)
        mask_variable(variable, mask)
        _mask_regularizer(owner, variable, mask)
        return _MaskedWeight(path, owner, slot, variable, mask, self._remembered(path), threshold)

    def call(self, *args, **kwargs):
        if self._call_spec.full_argspec.varargs is None:
            # Several layers, recurrent ones among them, take their arguments in another order than their `call`.
            kwargs.update(zip(self._call_spec.arg_names[1:], args[1:]))
            args = args[:1]
        with self._holding([(weight, weight.effective()) for weight in self.masked_weights]):
            return self.layer(*args, **kwargs)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        return self.layer.compute_mask(inputs, mask)

    def get_weights(self) -> list[Any]:
        """Returns the values of all weights, the masks among them (tfmot's own wrappers leave theirs out)."""
        return tf_keras.layers.Layer.get_weights(self)

    def set_weights(self, weights: list[Any]) -> None:
        """Sets the values of all weights, as `get_weights` gives them."""
        tf_keras.layers.Layer.set_weights(self, weights)

    def keep_at_every_step(self) -> None:
        """Does nothing: in tf_keras pruned weights are set to zero after steps of any optimizer anyway."""

    def get_build_config(self) -> None:
        """Returns None: a loaded wrapper is built when it is called, as its layer is."""

    def get_config(self) -> dict[str, Any]:
        config = super(PruneLowMagnitude, self).get_config()
        return {**config, **self._masking_config(), "call_specs": self.call_specs}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Mapping[str, Any] | None = None) -> MaskedLayer:
        check_wrapper_config(config)
        config = dict(config)
        layer = config.pop("layer")
        # HDF5 files hold the older of Keras's two formats, which has no module.
        layer = tf_keras.layers.deserialize(layer, custom_objects, use_legacy_format="module" not in layer)
        check_inner_layer(layer, tf_keras.layers.Layer)
        names, specs, masks = config.pop("sub_layer_names", ()), config.pop("call_specs", None), config.pop("masks", {})
        wrapper = cls(layer, **config)
        wrapper.sub_layer_names = tuple(names)
        wrapper.call_specs = specs
        wrapper.begin_with(masks)
        return wrapper


class _MaskedPruning(Pruning):
    """What tfmot's callback `UpdatePruningStep` asks to mask the weights after every epoch.

    Args:
        wrapper: A built wrapper.
    """

    def __init__(self, wrapper: MaskedLayer):
        super().__init__(lambda: wrapper.pruning_step, wrapper.pruning_vars, wrapper.pruning_schedule, (1, 1), "AVG")
        self._of = wrapper

    def weight_mask_op(self) -> Any:
        # Values under the masks that train are not shown, but would be assigned zeros.
        is_dense = any(weight.is_dense for weight in self._of.masked_weights)
        return tf.no_op() if is_dense else super().weight_mask_op()


@dataclasses.dataclass(frozen=True)
class _Penalty:
    """A penalty of θ, as a loss that a layer adds as a function."""

    variable: tf.Variable
    penalty: Callable[[tf.Tensor], tf.Tensor]

    def __call__(self) -> tf.Tensor:
        return self.penalty(tf.convert_to_tensor(self.variable))


@dataclasses.dataclass(frozen=True)
class _MaskedPenalty:
    """A regularization loss of θ⊙m instead of θ, so that it has no gradient at pruned weights that do not train."""

    penalty: functools.partial  # of a function of the variable
    mask: tf.Variable

    def __call__(self) -> tf.Tensor:
        variable = self.penalty.args[0]
        return self.penalty.func(variable if variable.constraint.is_dense else masked(variable, self.mask))


def _mask_regularizer(owner: tf_keras.layers.Layer, variable: tf.Variable, mask: tf.Variable) -> None:
    for position, loss, penalty in _penalties(owner):
        if isinstance(penalty, functools.partial) and penalty.args and penalty.args[0] is variable:
            keras_internals.function_losses(owner)[position] = functools.partial(
                loss.func, _MaskedPenalty(penalty, mask)
            )


def _unmask_regularizer(owner: tf_keras.layers.Layer, mask: tf.Variable) -> None:
    for position, loss, penalty in _penalties(owner):
        if isinstance(penalty, _MaskedPenalty) and penalty.mask is mask:
            keras_internals.function_losses(owner)[position] = functools.partial(loss.func, penalty.penalty)


def _penalties(owner: tf_keras.layers.Layer) -> Iterator[tuple[int, functools.partial, Any]]:
    """Yields (position, loss, what it calls) of the losses that layers add as functions, regularization among them."""
    for position, loss in enumerate(keras_internals.function_losses(owner)):
        if isinstance(loss, functools.partial) and loss.args:
            yield position, loss, loss.args[0]


def _spec(value: Any) -> Any:
    """Returns the type of a tensor, symbolic or not, and other values as they are."""
    if hasattr(value, "type_spec"):
        return value.type_spec
    return tf.type_spec_from_value(value) if tf.is_tensor(value) or hasattr(value, "__array__") else value


def _encode(value: Any) -> dict[str, Any] | None:
    if not isinstance(value, tf.TensorSpec):
        return None
    return {"shape": None if value.shape.rank is None else value.shape.as_list(), "dtype": value.dtype.name}


def _decode(value: dict[str, Any]) -> Any:
    return tf.TensorSpec(**value) if set(value) == {"shape", "dtype"} else value
