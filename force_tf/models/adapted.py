"""What layers know that stands in none of their variables: the vocabularies of lookups, and files of their own."""

from __future__ import annotations

import tempfile
from typing import Any

from force_tf.models.keras_models import keras_of
from force_tf.models.paths import layers_of


def config_of(layer: Any) -> dict[str, Any]:
    """Returns the configuration of a layer, with what `adapt()` taught it as far as a configuration can hold that.

    tf_keras keeps the bins of an adapted `Discretization` neither in its configuration nor in its files.
    """
    config = layer.get_config()
    if forgotten_variables(layer):
        config |= {"bin_boundaries": list(layer.bin_boundaries), "num_bins": None}
    return config


def forgotten_variables(layer: Any) -> list[Any]:
    """Returns the variables that a layer made from `config_of` does without: what tf_keras finds bins by."""
    layers = keras_of(layer).layers
    is_adapted = isinstance(layer, getattr(layers, "Discretization", ())) and bool(layer.bin_boundaries)
    return list(layer.variables) if is_adapted else []


def copy_adapted_state(source: Any, copy: Any) -> None:
    """Gives the copy of a layer what `adapt()`, `set_vocabulary()` or a file taught the layer and the layers inside it.

    Args:
        source: A layer of either Keras.
        copy: A layer made from its configuration. Layers inside that it makes only when it is built are left out.
    """
    for old, new in zip([source, *layers_of(source)], [copy, *layers_of(copy)]):
        if is_lookup(old):
            _copy_vocabulary(old, new)
        elif _has_own_assets(old):
            with tempfile.TemporaryDirectory() as folder:
                old.save_assets(folder)
                new.load_assets(folder)


def derives_from_variables(layer: Any) -> bool:
    """Returns whether a layer computes with what `finalize_state` derives from its variables, as in `Normalization`.

    Lookups derive their tables from counts of words that only `adapt` makes, and Keras 3's `Discretization` its bins
    from a summary of the data that it does not keep in a variable. Both would forget what they know.
    """
    return hasattr(layer, "finalize_state") and not is_lookup(layer) and bool(layer.variables)


def is_lookup(layer: Any) -> bool:
    """Returns whether a layer is a StringLookup or IntegerLookup of either Keras; TextVectorization has one inside."""
    layers = keras_of(layer).layers
    return isinstance(layer, (layers.StringLookup, layers.IntegerLookup))


def _copy_vocabulary(old: Any, new: Any) -> None:
    words = old.get_vocabulary(include_special_tokens=True)
    weights = None
    if old.output_mode == "tf_idf":
        known = getattr(old, "idf_weights_const", None)  # of one that was never adapted there are none
        weights = None if known is None else known.numpy()[: len(words)]  # behind the words it is padded
    elif words == new.get_vocabulary(include_special_tokens=True):
        return
    if weights is None and old.output_mode == "tf_idf":
        return
    # What a layer was made with stands in its configuration, and goes before its file of words: it may be outdated.
    new.input_vocabulary = new.input_idf_weights = None
    new.set_vocabulary(words, weights)


def _has_own_assets(layer: Any) -> bool:
    """Returns whether a class of the user's writes files beside its variables, as Keras asks of `save_assets`."""
    base = keras_of(layer).layers.Layer
    method = getattr(type(layer), "save_assets", None)
    is_keras = getattr(method, "__module__", "").partition(".")[0] in ("keras", "tf_keras")
    return method is not None and method is not getattr(base, "save_assets", None) and not is_keras
