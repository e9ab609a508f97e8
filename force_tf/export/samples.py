"""What a model takes: the specs of its inputs, and sample inputs that fit them."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from force_tf.models.keras_models import keras_of
from force_tf.models.paths import layers_of

# Enough to see a difference, few enough for the largest models on a small machine.
_RANDOM_SAMPLES = 8


@dataclasses.dataclass(frozen=True)
class Signature:
    """The inputs of a model.

    Attributes:
        structure: What the model is called with: a tensor, or a nested structure of them.
        specs: The spec of each tensor of the structure, flattened; None stands for a dimension that may vary.
    """

    structure: Any
    specs: tuple[tf.TensorSpec, ...]

    def pack(self, tensors: Iterable[Any]) -> Any:
        """Returns flat tensors in the structure that the model is called with."""
        return keras.tree.pack_sequence_as(self.structure, list(tensors))

    def with_batch_size(self, batch_size: int) -> Signature:
        """Returns this signature with every varying batch size fixed."""
        specs = (
            tf.TensorSpec([batch_size, *spec.shape[1:]], spec.dtype, spec.name) if _varies(spec) else spec
            for spec in self.specs
        )
        return Signature(self.structure, tuple(specs))

    @property
    def batch_size(self) -> int | None:
        """The batch size of the inputs, None if it may vary."""
        return None if any(map(_varies, self.specs)) else self.specs[0].shape[0]


def signature_of(model: keras.Model, samples: Any = None) -> Signature:
    """Returns the inputs of a model, from its own declaration or, where it has none, from samples.

    Raises:
        ValueError: If a subclassed model comes without samples, or an input is of a dtype that TFLite does not take.
    """
    declared = getattr(model, "inputs", None)
    if declared and isinstance(model, keras_of(model).Sequential):
        structure = declared[0]
    elif declared:
        structure = model.input
    elif samples is not None:
        structure = keras.tree.map_structure(
            lambda x: tf.TensorSpec([None, *np.shape(x)[1:]], np.asarray(x).dtype), samples
        )
    else:
        raise ValueError(
            "Expected `verify_data`, inputs to call the model with, since a subclassed model does not declare its "
            f"inputs. Received: verify_data=None for the model {model.name!r}"
        )
    leaves = keras.tree.flatten_with_path(structure)
    names = unique_names(
        [leaf_name(path, getattr(leaf, "name", None) or f"input_{i}") for i, (path, leaf) in enumerate(leaves)]
    )
    specs = tuple(_spec(leaf, name) for (_, leaf), name in zip(leaves, names))
    return Signature(structure, specs)


def leaf_name(path: tuple, default: str) -> str:
    """Returns the name of a tensor in a nested structure: its dict keys, or else a default."""
    keys = [str(key) for key in path]
    return "_".join(keys) if any(isinstance(key, str) for key in path) else default


def unique_names(names: list[str]) -> list[str]:
    """Returns the names as identifiers, each once, as a TFLite signature needs them."""
    taken: list[str] = []
    for name in names:
        name = re.sub(r"\W", "_", name)
        taken.append(name if name not in taken else f"{name}_{len(taken)}")
    return taken


def _spec(leaf, name: str) -> tf.TensorSpec:
    dtype = tf.as_dtype(leaf.dtype)
    if dtype.is_floating:
        dtype = tf.float32  # whatever precision the model trains in, the file computes in float32
    elif not (dtype.is_integer or dtype.is_bool):
        hint = " (export the part behind the lookup layers, and look strings up in the application)"
        raise ValueError(
            f"Expected inputs of numbers or booleans{hint if dtype == tf.string else ''}. "
            f"Received: the input {name!r} of dtype {dtype.name}"
        )
    return tf.TensorSpec(leaf.shape, dtype, name)


def _varies(spec: tf.TensorSpec) -> bool:
    return spec.shape[0] is None


def flat_samples(signature: Signature, samples: Any, name: str) -> list[np.ndarray]:
    """Returns an array for each input, as many rows as make whole batches, checked against the signature.

    Args:
        signature: The inputs of a model.
        samples: A structure of arrays.
        name: The argument that they come from, for the error.

    Raises:
        ValueError: If they do not fit.
    """
    names = [spec.name for spec in signature.specs]
    if isinstance(samples, dict) and set(samples) == set(names):
        samples = [samples[name] for name in names]
    arrays = [np.asarray(array) for array in keras.tree.flatten(samples)]
    fits = len(arrays) == len(names) and all(
        array.ndim and spec.shape.is_compatible_with([spec.shape[0], *array.shape[1:]])
        for spec, array in zip(signature.specs, arrays)
    )
    step = signature.batch_size or 1
    if not fits or len({len(array) for array in arrays}) != 1 or len(arrays[0]) < step:
        expected = ", ".join(f"{spec.name}: {tuple(spec.shape)}" for spec in signature.specs)
        received = ", ".join(str(array.shape) for array in arrays)
        raise ValueError(
            f"Expected `{name}` to hold an array for each input, of shapes ({expected}), with the same number of "
            f"samples, {step} or more. Received: arrays of shapes {received}"
        )
    whole = len(arrays[0]) // step * step
    return [array[:whole].astype(spec.dtype.as_numpy_dtype) for spec, array in zip(signature.specs, arrays)]


def random_samples(model: keras.Model, signature: Signature, seed: int = 0) -> list[np.ndarray]:
    """Returns an array of random numbers for each input.

    Floating-point numbers are standard normal; where the model itself rescales or normalizes its only input first, they
    are so after that. Integers are valid indices of every Embedding, or the whole range of 8-bit integers.

    Raises:
        ValueError: If the shape of an input may vary beyond its batch size.
    """
    step = signature.batch_size or 1
    count = step * math.ceil(_RANDOM_SAMPLES / step)
    rng = np.random.default_rng(seed)
    arrays = []
    for spec in signature.specs:
        if None in spec.shape[1:]:
            raise ValueError(
                "Expected `verify_data`, since the shape of an input may vary beyond its batch size. "
                f"Received: verify_data=None, with the input {spec.name!r} of shape {tuple(spec.shape)}"
            )
        shape, dtype = (count, *spec.shape[1:]), spec.dtype.as_numpy_dtype
        if spec.dtype.is_floating:
            numbers = rng.standard_normal(shape)
            arrays.append((_before_scaling(model, numbers) if len(signature.specs) == 1 else numbers).astype(dtype))
        else:
            low, high = _integer_range(model, spec.dtype)
            arrays.append(rng.integers(low, high, shape).astype(dtype))
    return arrays


def _integer_range(model: keras.Model, dtype: tf.DType) -> tuple[int, int]:
    embeddings = [layer for layer in layers_of(model) if isinstance(layer, keras_of(model).layers.Embedding)]
    if embeddings:
        return 0, min(*(layer.input_dim for layer in embeddings), dtype.max)
    return (int(dtype.min), int(dtype.max) + 1) if dtype.size == 1 and not dtype.is_bool else (0, 2)


def _before_scaling(model: keras.Model, numbers: np.ndarray) -> np.ndarray:
    """Returns what the first layers of a model, as far as they rescale and normalize, make these numbers of."""
    layers = keras_of(model).layers
    scaling = list(
        itertools.takewhile(
            lambda layer: isinstance(layer, (layers.Rescaling, layers.Normalization)),
            (layer for layer in getattr(model, "layers", ()) if not isinstance(layer, layers.InputLayer)),
        )
    )
    for layer in reversed(scaling):
        if isinstance(layer, layers.Rescaling):
            numbers = (numbers - np.asarray(layer.offset)) / np.asarray(layer.scale)
        else:
            numbers = numbers * np.sqrt(np.asarray(layer.variance)) + np.asarray(layer.mean)
    return numbers
