"""`MaskedLayer`: a Keras 3 layer whose pruned weights are, and stay, exactly zero."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from force_tf.layers.masked_variable import Penalized, mask_variable, project_soon, unmask_variable
from force_tf.layers.masking import (
    Forward,
    MaskedWeight,
    MaskHolder,
    mask_initializer,
    masked,
    relative_paths,
)
from force_tf.layers.wrapper_config import check_inner_layer, check_wrapper_config
from force_tf.models import keras_internals


class _MaskedWeight(MaskedWeight):
    def effective(self) -> tf.Tensor:
        """Returns θ⊙m in the dtype in which the owner computes."""
        if self.forward is not None:
            value = self.forward(self.unmasked(), tf.convert_to_tensor(self.mask))
        else:
            value = masked(self.variable, self.mask)
        owner = self.owner
        return tf.cast(value, owner.compute_dtype) if owner.autocast else value

    @property
    def forward(self) -> Forward | None:
        return self.variable.forward

    @property
    def is_dense(self) -> bool:
        return self.variable.is_dense

    def set_forward(self, forward: Forward | None, is_dense: bool = False) -> None:
        self.variable.forward, self.variable.is_dense = forward, is_dense

    def penalize(self, penalty: Callable[[tf.Tensor], tf.Tensor] | None) -> None:
        before = self.variable.regularizer
        if isinstance(before, Penalized):
            before = before.regularizer
        self.variable.regularizer = before if penalty is None else Penalized(penalty, before)

    def unmasked(self) -> tf.Tensor:
        return tf.convert_to_tensor(self.variable.unmasked())

    def replace(self, value: tf.Tensor) -> None:
        super().replace(value)
        self.variable.assigned = False  # which spares whoever reads it next

    def forget_pruned(self, optimizer: Any | None = None) -> None:
        self.variable.constraint.forget_pruned(self.variable, optimizer)

    def release(self) -> None:
        """Leaves θ⊙m in the variable, which nothing masks from then on."""
        self.penalize(None)
        unmask_variable(self.variable)
        allow_quantize(self.owner)


@keras.saving.register_keras_serializable(package="force_tf")
class MaskedLayer(MaskHolder, keras.layers.Wrapper):
    """Wraps a layer and holds a mask for some of its weights.

    With a mask m over a weight θ, the layer computes with θ⊙m. Pruned weights (those where m is False) are exactly
    zero and have a gradient of exactly zero, whatever flows back into them. After every step of an optimizer that may
    move weights without a gradient, such as Muon, they are set to zero again, and so are the moving averages of
    `use_ema=True`. What is written to a file is projected first.

    The wrapper takes the name, the dtype policy and the trainability of the layer, is called as the layer is, and keeps
    its masks as non-trainable boolean weights that start all True. They are in `get_weights()`, `.weights.h5` and
    `.keras` files like every other weight, and in `get_config()`, so that copies made of the configuration, such as
    those of `keras.models.clone_model`, have new weights under the same masks. `count_params()` and `summary()` count
    them as parameters that do not train.

    Args:
        layer: The `keras.layers.Layer` to wrap. It may have sub-layers, as `LSTM` and `MultiHeadAttention` do.
        weights: Paths of the weights to mask, relative to the layer, such as `("kernel",)` or
            `("query/kernel", "value/kernel")`. None stands for all weights that are pruned by default.
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        TypeError: If `weights` is a single string.
        ValueError: If `layer` is a `MaskedLayer`, or (once it is built) has no such weight.

    Example:

    >>> layer = MaskedLayer(keras.layers.Dense(2, name="logits"))
    >>> layer.build((None, 3))
    >>> layer.set_masks({"kernel": [[1, 0], [0, 0], [0, 1]]})
    >>> layer(np.ones((1, 3))).shape
    TensorShape([1, 2])
    """

    def __init__(self, layer: keras.layers.Layer, weights: Iterable[str] | None = None, **kwargs: Any):
        paths = relative_paths(MaskedLayer, layer, weights)
        if isinstance(layer, keras.layers.Layer):  # if not, Wrapper says so
            kwargs = {
                "name": layer.name,
                "dtype": layer.dtype_policy,
                "trainable": layer.trainable,
                "autocast": layer.autocast,
                **kwargs,
            }
        super().__init__(layer, **kwargs)
        self.weight_paths = paths
        self.sub_layer_names: tuple[str, ...] = ()
        self.masked_weights: list[_MaskedWeight] = []
        self.supports_masking = layer.supports_masking
        self.supports_jit = layer.supports_jit
        # The wrapper's own `call` takes anything, so Keras binds arguments as it does for the layer.
        for name, value in keras_internals.call_conventions(layer).items():
            setattr(self, name, value)

    def __call__(self, *args, **kwargs):
        if not self.masked_weights:
            # A symbolic call makes Keras build the layer as if it were not wrapped: with the shapes that its `build`
            # asks for, or by running its `call` if it has no `build`.
            args_spec, kwargs_spec = keras.tree.map_structure(_spec, (args, kwargs))
            self.layer(*args_spec, **kwargs_spec)
            self.build()
        return super().__call__(*args, **kwargs)

    def build(self, *args: Any, **kwargs: Any) -> None:
        """Builds the layer, if it is not, and the masks. Takes the arguments of the layer's own `build`."""
        if not self.layer.built:
            self.layer.build(*args, **kwargs)
        if not self.masked_weights:
            self._make_masks()

    def _add_mask(self, path: str, owner: Any, slot: str, mask: np.ndarray | None) -> _MaskedWeight:
        variable, begins_pruned = vars(owner)[slot], mask is not None
        mask = self.add_weight(
            name=f"{path.replace('/', '_')}_mask",
            shape=variable.shape,
            initializer=mask_initializer(mask),
            dtype="bool",
            trainable=False,
            autocast=False,
        )
        self._track_trackable(mask, f"{path}/mask")  # for checkpoints and SavedModels: it is in no attribute
        mask_variable(variable, mask)
        if begins_pruned:
            project_soon(variable)
        # `Model.quantize` reaches the layers inside wrappers, and would replace the variable by one without a mask.
        refuse_quantize(owner, owner.name)
        return _MaskedWeight(path, owner, slot, variable, mask, self._remembered(path))

    def keep_at_every_step(self) -> None:
        """Sets pruned weights to zero after steps of any optimizer, for those that have momenta already."""
        for weight in self.masked_weights:
            weight.variable.constraint.at_every_step = True

    def call(self, *args, **kwargs):
        with self._holding((weight, weight.effective()) for weight in self.masked_weights):
            return self.layer(*args, **kwargs)

    def compute_output_shape(self, *args, **kwargs):
        return self.layer.compute_output_shape(*args, **kwargs)

    def compute_output_spec(self, *args, **kwargs):
        return self.layer.compute_output_spec(*args, **kwargs)

    def compute_mask(self, inputs, previous_mask=None):
        return self.layer.compute_mask(inputs, previous_mask)

    def get_build_config(self) -> dict[str, Any] | None:
        # A layer without a `build` of its own gets its weights from its first call.
        if type(self.layer).build is keras.layers.Layer.build:
            return None
        return self.layer.get_build_config()

    def build_from_config(self, config: Mapping[str, Any]) -> None:
        if not self.layer.built:
            self.layer.build_from_config(config)
        self.build()

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self._masking_config()}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Mapping[str, Any] | None = None) -> MaskedLayer:
        check_wrapper_config(config)
        config = dict(config)
        layer = keras.saving.deserialize_keras_object(config.pop("layer"), custom_objects=custom_objects)
        check_inner_layer(layer, keras.layers.Layer)
        names, masks = config.pop("sub_layer_names", ()), config.pop("masks", {})
        wrapper = cls(layer, **config)
        wrapper.sub_layer_names = tuple(names)
        wrapper.begin_with(masks)
        return wrapper


class _Refusal:
    """Stands in the place of Keras's `quantize` of a pruned model, and of the layers whose weights are masked.

    Args:
        replaced: What an object had there.
        layer: The name of a layer, or None for that of a whole model.
    """

    def __init__(self, replaced: Any, layer: str | None):
        self.replaced = replaced
        self.layer = layer

    def __call__(self, mode: Any = None, *arguments: Any, **options: Any) -> None:
        where = f", where layers before {self.layer!r} may be quantized already: load or copy the model anew"
        raise ValueError(
            "Expected a model without masks: call `force_tf.strip_pruning(model)` first, and quantize what it returns; "
            f"its zeros stay zeros. Received: quantize({mode!r}) of a pruned model{where if self.layer else ''}"
        )


def refuse_quantize(item: Any, layer: str | None = None) -> None:
    """Makes Keras's `quantize` of a model, or of a layer in it, raise, and tell the way round.

    Args:
        item: A layer or model of Keras 3, of which each has the method in an attribute of its own.
        layer: The name of the layer; None for a model, in which nothing has changed then.
    """
    if not isinstance(vars(item).get("quantize"), _Refusal):
        # Past `__setattr__`, as it is no state of the object.
        vars(item)["quantize"] = _Refusal(item.quantize, layer)


def allow_quantize(item: Any) -> None:
    """Undoes `refuse_quantize`, if it was done."""
    refusal = vars(item).get("quantize")
    if isinstance(refusal, _Refusal):
        vars(item)["quantize"] = refusal.replaced


def _spec(value: Any) -> Any:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return keras.KerasTensor(value.shape, keras.backend.standardize_dtype(value.dtype))
    return value
