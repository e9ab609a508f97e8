"""The networks of `keras.applications`, one of every family, and the way of a model through all of force_tf."""

from __future__ import annotations

import dataclasses
import importlib
import os
import time
import warnings
from typing import Any

import numpy as np

import force_tf
from force_tf.models.keras_models import keras_of

KERASES = ("keras", "tf_keras")
CLASSES = 5


@dataclasses.dataclass(frozen=True)
class Family:
    """A network of a family.

    Attributes:
        network: The name of the smallest one.
        size: Height and width of the smallest images that it takes, in pixels.
        kerases: The modules that have it.
        unregistered: Classes of its layers that tf_keras does not find by itself when it loads a file, pruned or not.
    """

    network: str
    size: int = 32
    kerases: tuple[str, ...] = KERASES
    unregistered: tuple[str, ...] = ()


FAMILIES = {
    "ConvNeXt": Family("ConvNeXtTiny", unregistered=("LayerScale",)),
    "DenseNet": Family("DenseNet121"),
    "EfficientNet": Family("EfficientNetB0"),
    "EfficientNetV2": Family("EfficientNetV2B0"),
    "Inception": Family("InceptionV3", 75),
    "InceptionResNet": Family("InceptionResNetV2", 75),
    "MobileNet": Family("MobileNet"),
    "MobileNetV2": Family("MobileNetV2"),
    "MobileNetV3": Family("MobileNetV3Small"),
    "NASNet": Family("NASNetMobile"),
    "RegNet": Family("RegNetX002", kerases=("tf_keras",)),
    "ResNet": Family("ResNet50"),
    "ResNetRS": Family("ResNetRS50", kerases=("tf_keras",)),
    "ResNetV2": Family("ResNet50V2"),
    "VGG": Family("VGG16"),
    "Xception": Family("Xception", 71),
}


@dataclasses.dataclass(frozen=True)
class Passage:
    """What a model became on its way.

    Attributes:
        masks: Of the search.
        pruned: The wrapped model after a step of `fit`.
        loaded: `pruned`, saved as `.keras` and loaded again.
        plain: `pruned` without wrappers.
        report: Of the TFLite export, verified on the inputs of the step; None if TFLite cannot express the model.
        refusal: Why it cannot, or an empty string.
        keras_bytes: The size of the `.keras` file.
        seconds: CPU seconds, of all threads, of "search", "fit" (the first step, tracing included), "step" (a later
            one) and "export".
    """

    masks: force_tf.Masks
    pruned: Any
    loaded: Any
    plain: Any
    report: force_tf.TFLiteReport | None
    refusal: str
    keras_bytes: int
    seconds: dict[str, float]


def import_keras(module: str) -> Any:
    """Returns the Keras of that name: a module of `KERASES`."""
    return importlib.import_module(module)


def build(family: str, module: str = "keras", seed: int = 0) -> Any:
    """Returns a network with random weights that returns the logits of `CLASSES` classes, compiled.

    Args:
        family: A key of `FAMILIES`.
        module: The Keras to build it with: the name of a module, such as "keras".
        seed: Seed of the weights.
    """
    keras = import_keras(module)
    keras.utils.set_random_seed(seed)
    size = FAMILIES[family].size
    network = getattr(keras.applications, FAMILIES[family].network)
    model = network(weights=None, input_shape=(size, size, 3), classes=CLASSES, classifier_activation=None)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # XLA takes minutes to compile a step of a deep network, and so few steps do not earn them back.
    model.compile("adam", loss, jit_compile=False)
    return model


def random_images(model: Any, count: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns images of shape (count, height, width, 3), standard normal, and labels of shape (count,)."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, *model.input_shape[1:])).astype("float32"), rng.integers(0, CLASSES, count)


def custom_objects(family: str, model: Any) -> dict[str, type]:
    """Returns what `load_model` has to be told to load a network of a family, as `custom_objects`."""
    names = FAMILIES[family].unregistered if keras_of(model).__name__ == "tf_keras" else ()
    classes = {type(layer).__name__: type(layer) for layer in model.layers}
    return {name: classes[name] for name in names}


def pass_through(
    model: Any,
    data: tuple[Any, Any],
    folder: str | os.PathLike,
    custom_objects: dict[str, type] | None = None,
    **search: Any,
) -> Passage:
    """Searches masks for a compiled model, trains it for two steps, saves, loads, strips and exports it.

    Args:
        model: A compiled model of either Keras.
        data: One batch, inputs and targets.
        folder: Where "pruned.keras" and "pruned.tflite" are written.
        custom_objects: For `load_model`.
        **search: Arguments of `force_tf.PruneAtInit`.
    """
    seconds = {}

    def timed(what, function, *args, **kwargs):
        begin = time.process_time()
        result = function(*args, **kwargs)
        seconds[what] = time.process_time() - begin
        return result

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", force_tf.LayerCollapseWarning)  # the masks' metadata say it too
        masks = timed("search", force_tf.PruneAtInit(**search).find_masks, model, [data], verbose=0)
    pruned = force_tf.apply_masks(model, masks)
    timed("fit", pruned.fit, *data, batch_size=len(data[1]), verbose=0)
    timed("step", pruned.fit, *data, batch_size=len(data[1]), verbose=0)
    path = os.path.join(folder, "pruned.keras")
    pruned.save(path)
    report, refusal = None, ""
    try:
        file = os.path.join(folder, "pruned.tflite")
        report = timed("export", force_tf.export_tflite, pruned, file, verify_data=data[0], verbose=False)
    except ValueError as error:
        refusal = str(error)
    return Passage(
        masks=masks,
        pruned=pruned,
        loaded=keras_of(model).models.load_model(path, custom_objects),
        plain=force_tf.strip_pruning(pruned),
        report=report,
        refusal=refusal,
        keras_bytes=os.path.getsize(path),
        seconds=seconds,
    )
