"""Inputs that fit a model, with labels or without: images, arrays of an .npz file, or random numbers."""

from __future__ import annotations

import dataclasses
import math
import zipfile
from typing import Any

import image_data
import keras
import numpy as np
import tensorflow as tf

from force_tf.export.samples import Signature, random_samples, signature_of

IMAGES = ("digits", "mnist", "cifar10")
_BATCH = 100
# For ranges of activations, and to compare outputs one by one.
_CALIBRATION_SAMPLES, _COMPARED_SAMPLES = 500, 500
_RANDOM_BATCHES = 16  # of eight or more samples


@dataclasses.dataclass(frozen=True)
class ModelData:
    """Inputs of a model.

    Attributes:
        source: Where they come from, in words.
        calibration: Those to measure the ranges of activations on: an array for each input of the model.
        compared: Those to compare outputs on: an array for each input of the model.
        labelled: Batches of inputs and labels to measure the accuracy on, or None.
    """

    source: str
    calibration: list[np.ndarray]
    compared: list[np.ndarray]
    labelled: tf.data.Dataset | None = None


def load(
    model: keras.Model, name: str | None, data_dir: str | None = None, limit: int | None = None, seed: int = 0
) -> ModelData:
    """Loads data in the shape that a model takes.

    Args:
        model: A model of either Keras.
        name: One of `IMAGES`; or the path of an `.npz` file with the model's inputs `x` and their labels `y`, or with
            `x` alone. None for random inputs. Images are normalized as the other examples do it, and resized.
        data_dir: Where TensorFlow Datasets keeps its data. None: its own default.
        limit: Use only so many samples.
        seed: Seed of the random inputs.

    Raises:
        ImportError: If the package that provides the data is not installed.
        OSError: If the data is not there.
        ValueError: If the data does not fit the model.
    """
    signature = signature_of(model)
    if name is None:
        return _random(model, signature, seed)
    if len(signature.specs) != 1:
        raise ValueError(
            f"Expected a model with one input for --data={name}; leave it out to try random inputs. "
            f"Received: a model with {len(signature.specs)} inputs"
        )
    if name in IMAGES:
        return _images(model, signature, name, data_dir, limit)
    if not name.endswith(".npz"):
        raise ValueError(f"Expected --data to be {', '.join(IMAGES)} or an .npz file. Received: --data={name}")
    return _from_file(model, signature, name, limit)


def _random(model: keras.Model, signature: Signature, seed: int) -> ModelData:
    for spec in signature.specs:
        if None in spec.shape[1:]:
            raise ValueError(
                "Expected --data, since the shape of an input may vary beyond its batch size. "
                f"Received: no --data for the input {spec.name!r} of shape {tuple(spec.shape)}"
            )
    draws = [random_samples(model, signature, _RANDOM_BATCHES * seed + number) for number in range(_RANDOM_BATCHES)]
    arrays = [np.concatenate(parts) for parts in zip(*draws)]
    return ModelData("random inputs", arrays, arrays)


def _images(model: keras.Model, signature: Signature, name: str, data_dir: str | None, limit: int | None) -> ModelData:
    (spec,) = signature.specs
    if not spec.dtype.is_floating:
        raise ValueError(f"Expected a model of floating-point images for --data={name}. Received: {spec.dtype.name}")
    data = image_data.load(name, data_dir, limit)
    shape = _image_shape(spec.shape[1:].as_list(), data.input_shape, name)
    count = _whole_batches(signature, len(data.test_images))
    images, labels = data.test_images[:count], _checked_labels(model, data.test_labels[:count])

    def prepare(images: Any) -> tf.Tensor:
        return _in_shape(data.normalize(images), shape)

    batches = tf.data.Dataset.from_tensor_slices((images, labels)).batch(signature.batch_size or _BATCH)
    return ModelData(
        source=f"{count:,} test images of {name}",
        calibration=[prepare(_spread(data.train_images, _CALIBRATION_SAMPLES)).numpy()],
        compared=[prepare(_spread(images, _COMPARED_SAMPLES)).numpy()],
        # Prepared batch by batch: all images of a data set, resized for a large network, would not fit in memory.
        labelled=batches.map(lambda x, y: (prepare(x), y)),
    )


def _image_shape(wanted: list[int | None], given: tuple[int, int, int], name: str) -> tuple[int, ...]:
    """Returns the shape of an input, its open dimensions filled in, that images can be brought to."""
    height, width, channels = given
    if len(wanted) == 3 and wanted[2] in (None, channels, *([3] if channels == 1 else [])):
        return tuple(size or same for size, same in zip(wanted, given))
    # Rearranging several channels would mix them up, except where the model does not know of places.
    if None not in wanted and math.prod(wanted) == math.prod(given) and (channels == 1 or len(wanted) == 1):
        return tuple(wanted)
    raise ValueError(
        f"Expected a model whose input fits the {height}x{width}x{channels} images of --data={name}, resized or "
        f"flattened. Received: a model with inputs of shape {tuple(wanted)}"
    )


def _in_shape(images: tf.Tensor, shape: tuple[int, ...]) -> tf.Tensor:
    if len(shape) == 3 and shape[2] in (images.shape[-1], 3):
        resized = images if images.shape[1:3] == shape[:2] else tf.image.resize(images, shape[:2])
        return tf.repeat(resized, shape[2] // images.shape[-1], axis=-1)
    return tf.reshape(images, [-1, *shape])


def _from_file(model: keras.Model, signature: Signature, path: str, limit: int | None) -> ModelData:
    x, y = _arrays(path)
    (spec,) = signature.specs
    if x.dtype.kind not in "fiub" or not x.ndim or not spec.shape[1:].is_compatible_with(x.shape[1:]):
        raise ValueError(
            f"Expected `x` in {path!r} to hold samples of shape {tuple(spec.shape[1:])}, as the model takes them. "
            f"Received: {x.dtype} of shape {x.shape}"
        )
    if y is not None and (not y.ndim or len(y) != len(x)):
        raise ValueError(f"Expected a label for each of {len(x)} samples in {path!r}. Received: `y` of shape {y.shape}")
    count = _whole_batches(signature, len(x[:limit]))
    x = x[:count].astype(spec.dtype.as_numpy_dtype)
    labelled = None
    if y is not None:
        samples = tf.data.Dataset.from_tensor_slices((x, _checked_labels(model, y[:count])))
        labelled = samples.batch(signature.batch_size or _BATCH)
    source = f"{count:,} samples of {path}"
    return ModelData(source, [_spread(x, _CALIBRATION_SAMPLES)], [_spread(x, _COMPARED_SAMPLES)], labelled)


def _arrays(path: str) -> tuple[np.ndarray, np.ndarray | None]:
    try:
        with np.load(path) as file:
            return file["x"], file.get("y")
    except FileNotFoundError:
        raise FileNotFoundError(f"Expected an .npz file. Received: {path!r}, which does not exist.") from None
    except (EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"Expected an .npz file with arrays `x` and `y` ({error}). Received: {path!r}") from None


def _checked_labels(model: keras.Model, labels: np.ndarray) -> np.ndarray:
    """Returns labels as class numbers, int64 of shape (samples, 1)."""
    outputs = keras.tree.flatten(model.outputs)
    if len(outputs) != 1 or len(outputs[0].shape) != 2:
        shapes = ", ".join(str(tuple(output.shape)) for output in outputs)
        raise ValueError(
            "Expected a model with one output of shape (batch, classes) to measure the accuracy of; give an .npz file "
            f"without `y` to compare outputs alone. Received: outputs of shapes {shapes}"
        )
    width = outputs[0].shape[1]
    classes = max(width, 2)  # one output tells two classes apart
    if labels.shape[1:] in ((), (1,)) and labels.dtype.kind in "iub":
        if labels.min() >= 0 and labels.max() < classes:
            return labels.reshape(-1, 1).astype("int64")
        found = f"numbers from {labels.min()} to {labels.max()}"
    elif labels.shape[1:] == (width,) and width > 1 and labels.dtype.kind in "iubf":
        return labels.argmax(axis=1).reshape(-1, 1)
    else:
        found = f"{labels.dtype} of shape {labels.shape}"
    raise ValueError(
        f"Expected labels of {classes} classes: their numbers from 0 as integers, or rows of {classes} with 1 at the "
        f"class. Received: {found}"
    )


def accuracy_metric(model: keras.Model, data: ModelData) -> keras.Metric:
    """Returns the accuracy, named so, of outputs of shape (batch, classes), or (batch, 1) for two classes.

    Args:
        model: The model that the outputs are of, of either Keras.
        data: Inputs of it, with labels.
    """
    if model.outputs[0].shape[1] > 1:
        return keras.metrics.SparseCategoricalAccuracy("accuracy")
    outputs = model.predict(data.compared[0], verbose=0)
    # A file does not say whether its model ends in a sigmoid, but logits leave the range of probabilities.
    threshold = 0.5 if outputs.min() >= 0 and outputs.max() <= 1 else 0.0
    return keras.metrics.BinaryAccuracy("accuracy", threshold=threshold)


def _whole_batches(signature: Signature, count: int) -> int:
    """Returns how many of some samples make whole batches, where the batch size is fixed."""
    step = signature.batch_size or 1
    if count < step:
        raise ValueError(f"Expected {step} samples or more. Received: {count}")
    return count // step * step


def _spread(array: np.ndarray, count: int) -> np.ndarray:
    """Returns so many rows of an array, at even distances: the order may be that of the classes."""
    return array[np.linspace(0, len(array) - 1, min(count, len(array)), dtype=int)]
