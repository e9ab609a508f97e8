"""What the wrappers of both Kerases share: masks of weights anywhere inside a layer, which go by relative paths."""

from __future__ import annotations

import contextlib
import dataclasses
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from force_tf.layers.remembered import Remembered, entries, entry, is_entry
from force_tf.layers.wrapper_config import mask_of_text, text_of_mask
from force_tf.models import keras_internals, prunable
from force_tf.models.paths import layers_by_path, layers_of, split_path
from force_tf.models.weights import PrunableWeight, weight_slot


def masked(value: Any, mask: Any) -> tf.Tensor:
    """Returns value⊙mask.

    It is zero at pruned entries even for infinities and NaN, and so is its gradient, unlike those of a plain product.

    Args:
        value: Float tensor or variable of any shape.
        mask: Boolean or float tensor or variable of the same shape; True or 1 marks a kept entry.
    """
    # `tf.where` is as safe, but its broadcasting makes it several times slower on CPUs.
    value = tf.convert_to_tensor(value)
    return tf.math.multiply_no_nan(value, tf.cast(mask, value.dtype))


@tf.custom_gradient
def straight_through(value: tf.Tensor, mask: tf.Tensor) -> Any:
    """Returns value⊙mask, whose gradient passes to all of `value`, pruned entries too.

    Args:
        value: Float tensor of any shape.
        mask: Tensor of the same shape; True or 1 marks a kept entry.
    """

    def gradient(upstream):
        return upstream, None

    return masked(value, mask), gradient


Forward = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

UNDER_MASK = "under_mask"


@dataclasses.dataclass(frozen=True)
class MaskedWeight:
    """A weight that is masked: where it is, and its mask.

    Attributes:
        path: The weight's path relative to the wrapped layer.
        owner: The layer that holds the weight, the wrapped one or one inside it.
        slot: The entry of `vars(owner)` that holds the variable.
        variable: The weight, float of any shape.
        mask: Variable of the same shape; True or 1 marks a kept weight.
        remembered: What a training keeps beside it.
    """

    path: str
    owner: Any
    slot: str
    variable: Any
    mask: Any
    remembered: Remembered

    @property
    def forward(self) -> Forward | None:
        """What calls of the layer compute with, of θ and m; None for θ⊙m."""
        raise NotImplementedError

    @property
    def is_dense(self) -> bool:
        """Whether the variable holds values under its mask, which train, and shows θ⊙m to whoever reads it eagerly."""
        raise NotImplementedError

    def set_forward(self, forward: Forward | None, is_dense: bool = False) -> None:
        """Sets what calls compute with, and leaves the values as they are.

        A training step that was traced before stays as it was.
        """
        raise NotImplementedError

    def make_dense(self, forward: Forward | None) -> None:
        """Begins to train values under the mask too, or ends it and makes them zero.

        Whoever reads the variable sees θ⊙m all the while. A training step that was traced before stays as it was. They
        begin as a file has brought them along, or from zero.

        Args:
            forward: Takes θ and m, and returns what calls of the layer compute with, such as `straight_through`. None
                to end it.
        """
        of_file = self.remembered.take(UNDER_MASK)
        if not self.is_dense or forward is None:
            value = masked(self.unmasked(), self.mask)
            if forward is not None and of_file is not None:
                value += self._under_mask(tf.cast(of_file, value.dtype))
            self.variable.assign(value)
        self.set_forward(forward, forward is not None)

    def remember_under_mask(self) -> None:
        """Lets files keep what trains under the mask aside, from now on."""
        self.remembered.follow(UNDER_MASK, self._read_under_mask)

    def _read_under_mask(self) -> np.ndarray | None:
        with tf.init_scope():
            if not self.is_dense or not tf.executing_eagerly():  # in a SavedModel's graph, which lacks it
                return None
            return self._under_mask(self.unmasked()).numpy()

    def _under_mask(self, value: tf.Tensor) -> tf.Tensor:
        return masked(value, 1 - tf.cast(self.mask, value.dtype))

    def unmasked(self) -> tf.Tensor:
        """Returns all values of the variable, in its own dtype, also those under the mask."""
        raise NotImplementedError

    def project(self) -> None:
        """Makes the pruned entries of the variable zero, unless values under the mask train."""
        if self.is_dense:
            return
        self.variable.assign(masked(self.variable, self.mask))

    def replace(self, value: tf.Tensor) -> None:
        """Assigns a value whose pruned entries are zero already."""
        self.variable.assign(value)

    def observe(self, observer: Callable[[Any], None] | None) -> None:
        """Calls a function with θ after every step of an optimizer, as part of the step; None to end it.

        A training step that was traced before stays as it was.
        """
        self.variable.constraint.observer = observer

    def penalize(self, penalty: Callable[[tf.Tensor], tf.Tensor] | None) -> None:
        """Adds a function of θ to the losses of the model, as regularizers are; None to take it away.

        A training step that was traced before stays as it was.
        """
        raise NotImplementedError

    def forget_pruned(self, optimizer: Any | None = None) -> None:
        """Makes zero what optimizers remember of pruned entries, when a model that may have trained gets other masks.

        Args:
            optimizer: One that may have trained the weight before it was masked, beside those that have since.
        """
        raise NotImplementedError


class MaskHolder:
    """A wrapper of a layer that holds masks for some of its weights, whatever the Keras.

    A subclass is a layer with the wrapped one in `layer`, and fills `masked_weights` when it is built.

    Attributes:
        weight_paths: Paths of the weights to mask, relative to the layer; None for those that are pruned by default.
        sub_layer_names: Names to give to the layers inside the layer when it is built, outer layers first.
        masked_weights: The weights that are masked.
    """

    layer: Any
    weight_paths: tuple[str, ...] | None
    sub_layer_names: tuple[str, ...]
    masked_weights: list[MaskedWeight]
    _first_masks: Mapping[str, str] = types.MappingProxyType({})  # those of `begin_with`, until the wrapper is built

    @property
    def masked_layer(self) -> Any:
        """The layer that is masked, for which this wrapper stands in a model."""
        return self.layer

    def get_masks(self) -> dict[str, np.ndarray]:
        """Returns the masks: a weight's path relative to the layer, to a boolean array of the weight's shape."""
        return {weight.path: weight.mask.numpy().astype(bool) for weight in self.masked_weights}

    def set_masks(self, masks: Mapping[str, Any]) -> None:
        """Sets the masks and makes the pruned weights zero, and what optimizers that train them remember of them.

        Args:
            masks: Mapping from a weight's path relative to the layer to an array of booleans, or of zeros and ones, of
                the weight's shape. Masks that are not named stay as they are.

        Raises:
            ValueError: If the layer has no masked weight of that path.
        """
        self.place_masks(masks)
        for weight in self.masked_weights:
            if weight.path in masks:
                weight.forget_pruned()

    def place_masks(self, masks: Mapping[str, Any]) -> None:
        """Sets the masks of a layer that no optimizer has trained with others: see `set_masks`."""
        weights = {weight.path: weight for weight in self.masked_weights}
        unknown = sorted(set(masks) - set(weights))
        if unknown:
            raise ValueError(f"Expected masks for weights among {sorted(weights)}. Received: {unknown}")
        for path, mask in masks.items():
            weights[path].mask.assign(tf.cast(mask, weights[path].mask.dtype))
            weights[path].project()

    def release(self) -> None:
        """Leaves θ⊙m in the weights, which nothing masks from then on."""
        for weight in self.masked_weights:
            weight.release()
        self.masked_weights = []

    def __getattr__(self, name):
        # Reached for what the wrapper lacks. Code that had the layer still finds its `units` or its `kernel`, which is
        # masked here too.
        if name.startswith("_") or "layer" not in vars(self):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        for weight in vars(self).get("masked_weights", ()):
            if weight.path == name:
                return weight.effective()
        return getattr(self.layer, name)

    @contextlib.contextmanager
    def _holding(self, values: Iterable[tuple[MaskedWeight, tf.Tensor]]) -> Iterator[None]:
        """Puts values in the place of weights for the length of the block."""
        # The entries are replaced past Keras's `__setattr__`, which would track the tensors, and below properties such
        # as `Dense.kernel`.
        values = list(values)
        try:
            for weight, value in values:
                vars(weight.owner)[weight.slot] = value
            yield
        finally:
            for weight, _ in values:
                vars(weight.owner)[weight.slot] = weight.variable

    def save_own_variables(self, store: Any) -> None:
        # Keras writes a layer before the layers inside it, so this reaches the weights before they are written, also
        # when they have been assigned since the last step.
        for weight in self.masked_weights:
            weight.project()
        super().save_own_variables(store)
        for weight in self.masked_weights:
            # For a training that goes on from the file.
            for name, array in weight.remembered:
                store[entry(weight.path, name)] = array

    def load_own_variables(self, store: Any) -> None:
        if not store.keys():
            raise ValueError(
                "Expected a file with masks. To load one that was saved without: `masks = get_masks(model)`, "
                "`plain = strip_pruning(model)`, `plain.load_weights(path)`, `model = apply_masks(plain, masks)`. "
                f"Received: none for {self.name!r}"
            )
        keys = list(store.keys())  # not every store can be iterated over
        if any(map(is_entry, keys)):
            for weight in self.masked_weights:
                found = entries(keys, weight.path)
                weight.remembered.put({name: np.array(store[key]) for name, key in found.items()})
            store = {key: store[key] for key in keys if not is_entry(key)}
        super().load_own_variables(store)

    def _lookup_dependency(self, name, cached_dependencies=None):
        # `tf.train.Checkpoint.restore` goes by names of attributes, and hands over those that there are. A checkpoint
        # of the unwrapped model has the attributes of the layer in the place of the wrapper's.
        found = super()._lookup_dependency(name, cached_dependencies)
        if found is None and cached_dependencies is not None:
            return keras_internals.lookup_dependency(self.layer, name)
        return found

    def _restore_sub_layer_names(self) -> None:
        # Keras numbers unnamed sub-layers anew in every copy; paths must outlive copying and loading.
        inner = layers_of(self.layer)
        if len(inner) == len(self.sub_layer_names):
            for layer, name in zip(inner, self.sub_layer_names):
                keras_internals.set_name(layer, name)

    def _owners(self) -> dict[str, Any]:
        """Maps the relative path of the wrapped layer ("") and of every layer in it to the layer."""
        return layers_by_path(self.layer)

    def _find_weights(self) -> Iterator[tuple[str, Any, str]]:
        """Yields (path, owner, slot) of every weight to mask."""
        owners = self._owners()
        for path in self._paths_to_mask(owners):
            owner_path, attribute = split_path(path)
            owner = owners.get(owner_path)
            slot = owner and weight_slot(owner, attribute)
            if not slot:
                known = ", ".join(getattr(weight, "path", weight.name) for weight in self.layer.weights)
                raise ValueError(
                    f"Expected `weights` to name weights of {self.layer.name!r} by their path inside the layer (the "
                    f"layer has {known}). Received: {path!r}"
                )
            yield path, owner, slot

    def begin_with(self, masks: Mapping[str, str]) -> None:
        """Sets the masks that weights get when the wrapper is built, of weight paths, as a configuration has them."""
        # Neither Keras tracks a proxy, as both do dicts.
        self._first_masks = types.MappingProxyType(dict(masks))

    def _make_masks(self) -> None:
        """Makes the masks of the layer, which is built."""
        self._restore_sub_layer_names()
        found = {path: (owner, slot) for path, owner, slot in self._find_weights()}
        shapes = {path: tuple(vars(owner)[slot].shape) for path, (owner, slot) in found.items()}
        unknown = sorted(set(self._first_masks) - set(found))
        if unknown:
            raise ValueError(
                f"Expected 'masks' in a wrapper's configuration for weights among {sorted(found)}. Received: {unknown}"
            )
        masks = {path: mask_of_text(text, shapes[path], path) for path, text in self._first_masks.items()}
        self.masked_weights = [self._add_mask(path, *place, masks.get(path)) for path, place in found.items()]
        self.begin_with({})

    def _add_mask(self, path: str, owner: Any, slot: str, mask: np.ndarray | None) -> MaskedWeight:
        """Makes the mask of one weight, of an array to begin with or (None) all kept."""
        raise NotImplementedError

    def _remembered(self, path: str) -> Remembered:
        """Returns where to keep what training remembers of the weight of a path."""

        def track(name: str, item: Any) -> None:
            keras_internals.track(self, f"{path}/{name}", item)

        return Remembered(track)

    def _paths_to_mask(self, owners: Mapping[str, Any]) -> tuple[str, ...]:
        if self.weight_paths is not None:
            return self.weight_paths
        paths = tuple(
            f"{path}/{attribute}".lstrip("/")
            for path, owner in owners.items()
            for attribute in prunable.prunable_attributes(owner)
            if weight_slot(owner, attribute)
        )
        if not paths:
            raise ValueError(
                "Expected a layer with weights that are pruned by default, or name them with `weights`. "
                f"Received: layer={self.layer}"
            )
        return paths

    def _masking_config(self) -> dict[str, Any]:
        """Returns the part of the wrapper's configuration that concerns masks."""
        names = self.sub_layer_names or [layer.name for layer in layers_of(self.layer)]
        weights = None if self.weight_paths is None else list(self.weight_paths)
        return {"weights": weights, "sub_layer_names": list(names), "masks": self.masks_as_text()}

    def masks_as_text(self) -> dict[str, str]:
        """Returns the masks as a configuration has them, except those that keep everything."""
        if not self.masked_weights:
            return dict(self._first_masks)
        with tf.init_scope():
            masks = self.get_masks()
        return {path: text_of_mask(mask) for path, mask in masks.items() if not mask.all()}


def mask_initializer(mask: np.ndarray | None) -> Callable[..., tf.Tensor]:
    """Returns what makes the first value of a mask: an array, or (None) all kept."""
    return lambda shape, dtype: tf.ones(shape, dtype) if mask is None else tf.cast(mask, dtype)


def relative_paths(layer_class: type, layer: Any, weights: Iterable[str] | None) -> tuple[str, ...] | None:
    """Returns the paths given to a wrapper, checked.

    Args:
        layer_class: The class of the wrapper.
        layer: The layer to wrap.
        weights: Paths of weights relative to the layer, or None.

    Raises:
        TypeError: If `weights` is a single string.
        ValueError: If `layer` is wrapped already.
    """
    if isinstance(layer, layer_class):
        raise ValueError(f"Expected a layer without masks, or call strip_pruning first. Received: layer={layer}")
    if isinstance(weights, str):
        raise TypeError(f"Expected `weights` to be a list of weight paths. Received: weights={weights!r}")
    return None if weights is None else tuple(weights)


def paths_by_layer(weights: Iterable[PrunableWeight], is_open: Callable[[Any], bool]) -> dict[int, tuple[str, ...]]:
    """Returns which layers of a model to wrap, for masks of some of its weights.

    Args:
        weights: The weights to mask.
        is_open: Given a layer, returns whether the layers inside it can be wrapped one by one.

    Returns:
        A dict that maps the id of each layer to wrap, the outermost one that is not open, to the paths of its weights
        to mask, relative to it.
    """
    paths: dict[int, tuple[str, ...]] = {}
    for weight in weights:
        depth = next(depth for depth, layer in enumerate(weight.layers) if not is_open(layer))
        relative = weight.path.removeprefix(f"{weight.layer_paths[depth]}/")
        paths[id(weight.layers[depth])] = (*paths.get(id(weight.layers[depth]), ()), relative)
    return paths
