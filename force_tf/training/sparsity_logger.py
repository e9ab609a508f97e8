"""Callbacks for `fit`, under Keras 3 and the legacy `tf_keras` alike."""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from force_tf.layers import get_masks
from force_tf.masks import Masks
from force_tf.models.keras_models import check_inputs, tf_variable
from force_tf.models.model_state import preserved_variables
from force_tf.models.output_channels import dead_channels, output_axes
from force_tf.models.paths import layers_by_path, split_path
from force_tf.models.weights import weight_variable
from force_tf.objective.batches import Batch, Batches
from force_tf.objective.distribution import writes_files
from force_tf.objective.objective import Objective

__all__ = ["SparsityLogger"]


class SparsityLogger(keras.callbacks.Callback):
    """Logs, after every epoch, how sparse a pruned model is, and whether it stays so.

    What is measured goes into the logs of `fit`, so that `History`, `CSVLogger`, `EarlyStopping` and other callbacks
    see it, and to TensorBoard:

    - `sparsity`: the fraction of the masked weights that is pruned, over all masks.
    - `nonzero_masked_weights`: how many pruned weights are not exactly zero in memory. It should be 0.
    - `nonzero_masked_gradients` (only with `data`): how many pruned weights have a gradient that is not exactly zero.
      It should be 0. The gradient is that of the loss on one batch, regularizers included, in training mode.
    - `dead_channels`: how many output channels of masked weights have no kept weight, so that they give the same output
      for every input.
    - `masks_dropped`, `masks_grown`: how many weights are pruned now and were not when the epoch before ended (or the
      training began), and the other way round: 0 unless masks move.
    - `density/<path>`: the fraction of weights kept, of each masked weight.
    - `dropped/<path>`, `grown/<path>`: what was dropped and grown, of each masked weight.
    - `dead_channels/<path>`: the dead channels of each masked weight.

    If a pruned weight or its gradient is not zero, a warning names the weight. The model's variables are left as they
    are.

    An output channel is a position on the last axis of a weight: a unit of a dense layer, a filter of a convolution, a
    unit of a gate of a recurrent layer (in the kernel and in the recurrent kernel), a feature of an embedding. In a
    transposed convolution filters lie on the last axis but one; in a depthwise kernel a channel is a pair of an input
    channel and a multiple; in attention and `EinsumDense` it is a position on those axes of the kernel that are in the
    output, such as a unit of a head.

    Args:
        log_dir: The folder for TensorBoard's files, which appear beside others that are there; None for none. The
            step of the scalars is the epoch. Each epoch is on disk when it ends, also if `fit` is interrupted later. Of
            several workers the first one writes.
        data: What `fit` takes, batched; its first batch is used for the gradient check. None: no such check.
        loss: A loss for the check, as in `PruneAtInit.find_masks`; None for what the model trains on.
        per_layer: Whether the logs of `fit` get the entries with a path. `False` keeps the progress bar short, which
            shows all logs; TensorBoard gets them all the same.

    Raises:
        ImportError: If `log_dir` is given and TensorBoard is not installed.
        NotADirectoryError: If `log_dir` is a file.
        TypeError: If `data` is of no such form.
        ValueError: If there is no data; and, from `fit`, before it trains: if the model has no masks, or data or loss
            do not fit it.

    Example:

    ```python
    logger = force_tf.callbacks.SparsityLogger("logs", data=(x[:32], y[:32]))
    history = pruned.fit(x, y, callbacks=[logger])
    history.history["sparsity"]
    ```
    """

    def __init__(
        self,
        log_dir: str | os.PathLike | None = None,
        *,
        data: Any = None,
        loss: Any = None,
        per_layer: bool = True,
    ):
        super().__init__()
        if log_dir is not None and importlib.util.find_spec("tensorboard") is None:
            raise ImportError(
                "Expected TensorBoard, for which `log_dir` is: run `pip install tensorboard`, or leave `log_dir` out. "
                f"Received: no module named 'tensorboard', and log_dir={os.fspath(log_dir)!r}"
            )
        if log_dir is not None and os.path.exists(log_dir) and not os.path.isdir(log_dir):
            raise NotADirectoryError(
                f"Expected a folder for TensorBoard's files. Received: log_dir={log_dir!r}, a file"
            )
        self.log_dir = None if log_dir is None else os.fspath(log_dir)
        self.loss = loss
        self.per_layer = per_layer
        # Whether it must have targets is known when there is a model.
        options = {"needs_targets": False, "float_dtype": keras.config.floatx()}
        self._batch = None if data is None else Batches(data, seed=0, **options).first
        self._masks: Masks | None = None  # of the epoch before
        self._gradients: _Gradients | None = None
        self._writer: tf.summary.SummaryWriter | None = None

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        masks = self._masks = get_masks(self.model)  # raises if there are none
        if self._batch is not None:
            self._gradients = _Gradients(self.model, self.loss, self._batch, masks)
        self._close()  # what an interrupted fit left open
        if self.log_dir is not None and writes_files(self.model):
            self._writer = tf.summary.create_file_writer(self.log_dir)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        masks = get_masks(self.model)
        per_layer = {f"density/{path}": float(masks.density(path)) for path in masks}
        dead = {
            f"dead_channels/{path}": dead_channels(masks[path], output_axes(layer, attribute))
            for path, (layer, attribute) in _owners(self.model, masks).items()
        }
        dropped, grown = _moved(self._masks, masks), _moved(masks, self._masks)
        self._masks = masks
        totals = {
            "sparsity": float(masks.sparsity),
            **self._check(masks),
            "dead_channels": sum(dead.values()),
            "masks_dropped": sum(dropped.values()),
            "masks_grown": sum(grown.values()),
        }
        per_layer |= dead
        per_layer |= {f"dropped/{path}": count for path, count in dropped.items()}
        per_layer |= {f"grown/{path}": count for path, count in grown.items()}
        if logs is not None:
            logs.update(totals | per_layer if self.per_layer else totals)
        if self._writer is not None:
            with self._writer.as_default(step=epoch):
                for name, value in (totals | per_layer).items():
                    tf.summary.scalar(name, value)
            # So that nothing is lost if `fit` is interrupted, which tells callbacks nothing.
            self._writer.flush()

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        self._close()

    def _check(self, masks: Masks) -> dict[str, int]:
        """Counts the pruned weights, and gradients at them, that are not zero."""
        values = {"nonzero_masked_weights": [v.numpy() for v in _masked_variables(self.model, masks)]}
        if self._gradients is not None:
            values["nonzero_masked_gradients"] = self._gradients()
        counts = {}
        for name, tensors in values.items():
            by_path = {path: int(np.count_nonzero(tensor[~masks[path]])) for path, tensor in zip(masks, tensors)}
            counts[name] = sum(by_path.values())
            if counts[name]:
                where = ", ".join(f"{count} in {path!r}" for path, count in by_path.items() if count)
                warnings.warn(
                    "Expected pruned weights and their gradients to be exactly zero; look for code that assigns "
                    f"weights past the layers, or changes gradients after the tape. Received: {name}: {where}",
                    stacklevel=2,
                )
        return counts

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    # tf_keras asks these of every callback, and they are not in Keras 3's base class. There are no batch hooks here.

    def _implements_train_batch_hooks(self) -> bool:
        return False

    def _implements_test_batch_hooks(self) -> bool:
        return False

    def _implements_predict_batch_hooks(self) -> bool:
        return False


def _moved(before: Masks, after: Masks) -> dict[str, int]:
    """Counts, of each masked weight, what is kept by the first masks and not by the second ones."""
    return {path: int(np.count_nonzero(before[path] & ~after[path])) for path in after}


class _Gradients:
    """The gradient that `fit` would take on one batch, by the masked variables.

    Unlike `GradientFunction`, it is for models whose loss may be NaN: training may diverge, and masks hold even so.

    Raises:
        ValueError: If the batch or the loss does not fit the model.
    """

    def __init__(self, model: Any, loss: Any, batch: Batch, paths: Iterable[str]):
        check_inputs(model, batch.x)
        objective = Objective(model, loss)
        batch = objective.batches([batch]).first
        variables = [tf_variable(variable) for variable in _masked_variables(model, paths)]

        @tf.function(autograph=False)
        def gradients() -> list[tf.Tensor]:
            with tf.GradientTape() as tape:
                value = objective(model, *batch, regularizers=True)
            gradients = tape.gradient(value, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
            return [tf.convert_to_tensor(gradient) for gradient in gradients]  # embeddings give IndexedSlices

        with preserved_variables(model):
            gradients.get_concrete_function()
        objective.check_targets(batch)
        self._model = model
        self._function = gradients

    def __call__(self) -> list[np.ndarray]:
        # Training mode moves batch statistics and advances the seeds of Dropout.
        with preserved_variables(self._model):
            return [gradient.numpy() for gradient in self._function()]


def _owners(model: Any, paths: Iterable[str]) -> dict[str, tuple[Any, str]]:
    """Maps the path of each weight to the layer that holds it and the weight's name there."""
    layers = layers_by_path(model)
    split = {path: split_path(path) for path in paths}
    return {path: (layers[owner], attribute) for path, (owner, attribute) in split.items()}


def _masked_variables(model: Any, paths: Iterable[str]) -> list[Any]:
    return [weight_variable(layer, attribute) for layer, attribute in _owners(model, paths).values()]
