"""`evaluate_tflite`: the metrics of a TFLite file, computed by Keras."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from force_tf.export.programs.runtime import Runner
from force_tf.export.quiet import quiet
from force_tf.export.samples import leaf_name, unique_names
from force_tf.models.keras_models import keras_of
from force_tf.objective.batches import Batch, Batches
from force_tf.support import arguments
from force_tf.support.arrays import as_arrays, as_dense, row_count, take_rows


def evaluate_tflite(
    path: str | os.PathLike,
    data: Any,
    metrics: Any = None,
    loss: Any = None,
    *,
    weighted_metrics: Any = None,
    batch_size: int = 32,
    threads: int = 1,
    verbose: str | int = "auto",
) -> dict[str, float]:
    """Runs a TFLite file on data with targets, and returns what Keras's `evaluate(..., return_dict=True)` would.

    The outputs of the file are scored by Keras itself, so that every metric and loss means what it means there. Inputs
    and outputs are floating-point numbers where the file's are quantized. Recurrent layers begin every sample without a
    state. A file that does not run with the default delegate is run without it.

    Args:
        path: A TFLite file with one signature, such as `export_tflite` writes.
        data: What `fit` takes, with targets: a batched `tf.data.Dataset`, arrays `(x, y)` or `(x, y, sample_weight)`, a
            `PyDataset`, or any iterable of batches that ends. Inputs have shape (batch, …). Several inputs come as a
            dict under the names that the file has for them, and the targets of several outputs likewise: a file does
            not keep their order. The names are those of a Keras model's input and output layers, or of its own dicts.
        metrics: What `compile` takes as `metrics`: names, functions or objects of one Keras, in a list; for several
            outputs in a dict of lists. Objects are reset.
        loss: What `compile` takes as `loss`; for several outputs a dict. None for no loss. A model's regularizers are
            not in its file.
        weighted_metrics: What `compile` takes as `weighted_metrics`, which sample weights count for.
        batch_size: The batch size for arrays. Other data keeps its own. Batches run whole if the batch size of the file
            may vary, and sample by sample, or as many at a time as the file declares, if it may not.
        threads: The number of threads that the interpreter may use.
        verbose: 0 for silence, 1 or "auto" for a progress bar, 2 for a line at the end.

    Returns:
        The value of each metric by its name in Keras, and the "loss" if there is one. Metrics that compute an array are
        returned as such. Losses of single outputs are means over samples (in graphs, Keras 3 averages over batches).

    Raises:
        FileNotFoundError: If there is no such file.
        TypeError: If `data` is of no such form, inputs are ragged, or metrics and loss are of both Kerases.
        ValueError: If the interpreter cannot load or run the file, if there is nothing to compute, or if data, metrics
            or loss do not fit the file.

    Example:

    >>> force_tf.evaluate_tflite("model.tflite", (x_test, y_test), ["accuracy"], verbose=0)
    {'accuracy': 0.978}
    """
    path = os.fsdecode(path)
    batch_size = arguments.integer("batch_size", batch_size, minimum=1)
    threads = arguments.integer("threads", threads, minimum=1)
    verbose = arguments.one_of("verbose", verbose, ("auto", 0, 1, 2))
    wanted = {"metrics": metrics, "weighted_metrics": weighted_metrics, "loss": loss}
    module = _keras_of(wanted)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"Expected a TFLite file. Received: {path!r}, which does not exist.")
    batches, count = _batches(data, batch_size)
    file = _File(path, threads)
    _check_names(file.outputs, wanted)
    progress = keras.utils.Progbar(count, verbose=1 if verbose == "auto" else verbose)
    scorer, step, results = None, 0, {}
    for step, batch in enumerate(batches, 1):
        outputs = file(batch.x)
        if scorer is None:
            scorer = _Scorer(module, outputs, wanted, batch.y)
        results = scorer(outputs, batch)
        progress.stateful_metrics.update(results)
        progress.update(step, _scalars(results), finalize=False)
    if not step:
        raise ValueError(f"Expected at least one batch of data. Received: a {type(data).__name__} without any")
    progress.update(step, _scalars(results), finalize=True)
    return results


def _scalars(results: Mapping[str, Any]) -> list[tuple[str, float]]:
    return [(name, value) for name, value in results.items() if isinstance(value, float)]


def _keras_of(wanted: Mapping[str, Any]) -> ModuleType:
    """Returns the Keras that metrics and loss are made of: Keras 3 where they are names and functions alone."""
    if all(value is None for value in wanted.values()):
        raise ValueError("Expected `metrics`, `weighted_metrics` or a `loss` to compute. Received: none of them")
    modules = {keras_of(item) for item in tf.nest.flatten(wanted)} - {None}
    if len(modules) > 1:
        raise TypeError("Expected metrics and a loss of one Keras. Received: some of keras, others of tf_keras")
    return modules.pop() if modules else keras


def _check_names(outputs: Iterable[str], wanted: Mapping[str, Any]) -> None:
    """Raises if metrics are no list, or metrics or losses of several outputs do not say which of them they are for."""
    names = sorted(outputs)
    for argument, value in wanted.items():
        if argument != "loss" and not isinstance(value, (list, tuple, dict, type(None))):
            raise TypeError(
                f"Expected `{argument}` as a list, or as a dict of lists under the names of the file's outputs "
                f"({', '.join(names)}). Received: {argument}={value!r}"
            )
        unnamed = len(names) > 1 and isinstance(value, (list, tuple))
        unknown = sorted(set(value).difference(names)) if isinstance(value, dict) else []
        if unnamed or unknown:
            raise ValueError(
                f"Expected `{argument}` as a dict under the names of the file's outputs ({', '.join(names)}), whose "
                f"order a file does not keep. Received: {', '.join(unknown) or f'a {type(value).__name__}'}"
            )


def _batches(data: Any, batch_size: int) -> tuple[Iterator[Batch], int | None]:
    """Returns all batches of the data once, arrays in their own order, and how many these are, if that is known."""
    if not isinstance(data, Iterator):
        Batches(data, batch_size)  # refuses what does not fit
    elements, count = data, len(data) if isinstance(data, list) else None
    if isinstance(data, tuple):
        whole = tuple(map(as_arrays, data))
        rows = np.arange(row_count(keras.tree.flatten(whole)[0]))
        starts = range(0, len(rows), batch_size)
        elements = (_rows(whole, rows[start : start + batch_size]) for start in starts)
        count = len(starts)
    elif isinstance(data, keras.utils.PyDataset):
        count = tf.data.INFINITE_CARDINALITY if data.num_batches is None else data.num_batches
        elements = map(data.__getitem__, range(count))
    elif isinstance(data, tf.data.Dataset):
        count = int(data.cardinality())
    if count == tf.data.INFINITE_CARDINALITY:
        raise ValueError(f"Expected data that ends. Received: a {type(data).__name__} without an end")
    return (Batches([element]).first for element in elements), None if count is None or count < 0 else count


def _rows(structure: Any, rows: np.ndarray) -> Any:
    return tf.nest.map_structure(lambda leaf: None if leaf is None else take_rows(leaf, rows), structure)


class _WithoutLoss(keras.Model):
    def compute_loss(self, *arguments: Any, **options: Any) -> tf.Tensor:
        return tf.zeros(())


class _Scorer:
    """Computes metrics and losses of outputs that are known already, in a Keras model that returns its inputs.

    Args:
        module: The Keras of the metrics and losses.
        outputs: The outputs of the first batch, by name.
        wanted: The arguments of `compile`.
        targets: The targets of the first batch.

    Raises:
        ValueError: If targets are not told apart by name, where there are several outputs.
    """

    def __init__(self, module: ModuleType, outputs: Mapping[str, np.ndarray], wanted: dict[str, Any], targets: Any):
        self._by_name = isinstance(targets, dict)
        if (len(outputs) > 1 and not self._by_name) or (self._by_name and set(targets) != set(outputs)):
            received = ", ".join(map(str, targets)) if self._by_name else f"a {type(targets).__name__}"
            raise ValueError(
                f"Expected targets as a dict under the names of the file's outputs ({', '.join(outputs)}). "
                f"Received: {received}"
            )
        self._has_loss = wanted["loss"] is not None
        inputs = [module.Input([None] * (output.ndim - 1)) for output in outputs.values()]
        # A mixed precision policy would round the outputs.
        passed = [module.layers.Identity(name=name, dtype="float32")(x) for name, x in zip(outputs, inputs)]
        # Keras 3 insists on a loss.
        kind = _WithoutLoss if module is keras and not self._has_loss else module.Model
        self._model = kind(inputs, dict(zip(outputs, passed)) if self._by_name else passed[0])
        self._model.compile(**wanted)
        for metric in tf.nest.flatten([wanted["metrics"], wanted["weighted_metrics"]]):
            if isinstance(metric, module.metrics.Metric):
                metric.reset_state()  # it may have been used before

    def __call__(self, outputs: Mapping[str, np.ndarray], batch: Batch) -> dict[str, Any]:
        """Returns the values over all batches so far."""
        try:
            results = self._model.test_step((list(outputs.values()), batch.y, batch.sample_weight))
        except (TypeError, ValueError, tf.errors.InvalidArgumentError) as error:
            expected = ", ".join(f"{name}: {output.shape}" for name, output in outputs.items())
            received = ", ".join(str(tuple(leaf.shape)) for leaf in tf.nest.flatten(batch.y))
            raise ValueError(
                f"Expected targets, metrics and a loss that fit outputs of the shapes ({expected}). "
                f"Received: targets of the shapes {received} ({' '.join(str(error).split())})"
            ) from error
        arrays = {name: np.asarray(value) for name, value in results.items() if self._has_loss or name != "loss"}
        return {name: array if array.ndim else float(array) for name, array in arrays.items()}


class _File:
    """Runs a TFLite file on batches of any size.

    Args:
        path: The file.
        threads: The number of threads that the interpreter may use.

    Attributes:
        inputs: The interpreter's details of each input, by name.
        outputs: The interpreter's details of each output, by name.

    Raises:
        ValueError: If the interpreter cannot load the file.
    """

    def __init__(self, path: str, threads: int):
        self._options = {"model_path": path, "num_threads": threads}
        with quiet():
            try:
                self._runner = Runner(**self._options)
            except (RuntimeError, ValueError) as error:
                raise self._refusal(error) from error
        self.inputs, self.outputs = self._runner.inputs, self._runner.outputs
        fixed = {int(size) for details in self.inputs.values() for size in details["shape_signature"][:1] if size > 0}
        # How many samples at a time, None for all of a batch. The next way is for when one does not work.
        steps = [max(fixed)] if fixed else [None, 1]
        (_, self._step), *self._ways = [(delegate, step) for delegate in (True, False) for step in steps]

    def __call__(self, x: Any) -> dict[str, np.ndarray]:
        """Returns the outputs, by name, for a batch of inputs, which is refused if it does not fit."""
        arrays = self._arrays(x)
        first_error = None
        with quiet():
            while True:
                try:
                    return self._run(arrays)
                except (RuntimeError, ValueError) as error:
                    first_error = first_error or error
                if not self._ways:
                    raise self._refusal(first_error) from first_error
                delegate, self._step = self._ways.pop(0)
                self._runner = Runner(default_delegate=delegate, **self._options)

    def _run(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        count = len(next(iter(arrays.values())))
        step = self._step or count
        parts = []
        for start in range(0, count, step):
            rows = {name: _filled(array[start : start + step], step) for name, array in arrays.items()}
            parts.append(self._runner(rows))
            for name, output in parts[-1].items():
                if not output.ndim or len(output) != step:
                    raise ValueError(f"the output {name!r} has the shape {output.shape} for {step} samples")
        return {name: np.concatenate([part[name] for part in parts])[:count] for name in self.outputs}

    def _arrays(self, x: Any) -> dict[str, np.ndarray]:
        leaves = keras.tree.flatten_with_path(x)
        names = unique_names([leaf_name(path, f"unnamed {i}") for i, (path, _) in enumerate(leaves)])
        if len(leaves) == len(self.inputs) == 1:
            names = list(self.inputs)
        if sorted(names) != sorted(self.inputs):
            expected = ", ".join(f"{name}: {_shape(details)}" for name, details in self.inputs.items())
            raise ValueError(
                f"Expected inputs as a dict under the names of the file's inputs ({expected}). "
                f"Received: {', '.join(names)}"
            )
        return {name: _fitted(name, self.inputs[name], leaf) for name, (_, leaf) in zip(names, leaves)}

    def _refusal(self, error: Exception) -> ValueError:
        reason = " ".join(str(error).split())
        return ValueError(
            f"Expected a TFLite file that the interpreter can run ({reason}). Received: {self._options['model_path']!r}"
        )


def _shape(details: Mapping[str, Any]) -> tuple[int | None, ...]:
    return tuple(None if size < 0 else int(size) for size in details["shape_signature"])


def _fitted(name: str, details: Mapping[str, Any], leaf: Any) -> np.ndarray:
    """Returns the array of an input; as in Keras, a last axis of size 1 may be missing or in excess."""
    if not isinstance(leaf, (tf.Tensor, tf.SparseTensor)):
        raise TypeError(f"Expected inputs that are no ragged arrays. Received: a {type(leaf).__name__} for {name!r}")
    array, expected = as_dense(leaf), _shape(details)
    spellings = [array, array[..., None], *([array[..., 0]] if array.shape[1:] and array.shape[-1] == 1 else [])]
    for spelling in spellings:
        if spelling.ndim and expected and tf.TensorShape(expected[1:]).is_compatible_with(spelling.shape[1:]):
            return spelling
    raise ValueError(
        f"Expected batches of inputs of shape {(None, *expected[1:])} for {name!r}. Received: shape {array.shape}"
    )


def _filled(array: np.ndarray, rows: int) -> np.ndarray:
    """Returns an array with its last row repeated until it has so many rows."""
    return np.concatenate([array, np.repeat(array[-1:], rows - len(array), axis=0)]) if len(array) < rows else array
