"""The training protocol of the FORCE paper, and a training that goes on where it was interrupted."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
from image_data import ImageData
from run_folder import RunFolder

from force_tf.layers import is_pruned, strip_pruning
from force_tf.models.keras_models import keras_of

_CHECKPOINT, _HISTORY = "checkpoint.keras", "history.json"


def cross_entropy(model: keras.Model) -> keras.losses.Loss:
    """Returns the loss that all examples train with and score: cross-entropy of logits and class numbers."""
    return keras_of(model).losses.SparseCategoricalCrossentropy(from_logits=True)


def compile_model(model: keras.Model, learning_rate: float, steps: int, steps_per_execution: int = 1) -> None:
    """Compiles a classifier for SGD with momentum 0.9, as in the FORCE paper.

    The learning rate falls to a tenth after 3/7 of the steps and again after 5/7: at the epochs 150 and 250 of the
    paper's 350. Weight decay is a matter of the network, see `networks.build`.

    Args:
        model: The model to compile, which returns logits.
        learning_rate: The learning rate to begin with.
        steps: Batches in the whole training.
        steps_per_execution: Batches between two returns to Python.
    """
    optimizers = keras_of(model).optimizers
    schedule = optimizers.schedules.PiecewiseConstantDecay(
        [steps * 3 // 7, steps * 5 // 7], [learning_rate, learning_rate / 10, learning_rate / 100]
    )
    model.compile(
        optimizers.SGD(schedule, momentum=0.9),
        cross_entropy(model),
        metrics=["accuracy"],
        steps_per_execution=steps_per_execution,
    )


def for_use(model: keras.Model) -> keras.Model:
    """Returns a copy of a model without masks and without an optimizer: for use, not for more training."""
    plain = strip_pruning(model) if is_pruned(model) else model
    copy = keras_of(plain).models.clone_model(plain)
    copy.set_weights(plain.get_weights())
    return copy


def train(
    model: keras.Model,
    data: ImageData,
    *,
    learning_rate: float,
    batch_size: int,
    epochs: int,
    seed: int,
    whole_epochs: bool = False,
    test_last_only: bool = False,
    callbacks: Sequence[Any] = (),
) -> list[dict[str, float]]:
    """Trains a model, tests it after every epoch, and returns a row of metrics per epoch.

    Args:
        model: The model to train, compiled here.
        data: What to train and test it on.
        learning_rate: The learning rate to begin with.
        batch_size: Images in a batch.
        epochs: How often every image is seen.
        seed: Seed of the order and the augmentation.
        whole_epochs: Run each epoch in one go, which is faster for small networks, but cannot be interrupted.
        test_last_only: Test after the last epoch alone: only its row has the metrics of the test images.
        callbacks: More callbacks for `fit`; what they log is in the rows.
    """
    steps = data.steps_per_epoch(batch_size)
    compile_model(model, learning_rate, steps * epochs, steps if whole_epochs else 1)
    rows: list[dict[str, float]] = []
    model.fit(
        data.train_batches(batch_size, seed, epochs=epochs),
        steps_per_epoch=steps,
        epochs=epochs,
        validation_data=data.test_batches(),
        validation_freq=epochs if test_last_only else 1,
        verbose=0,
        shuffle=False,
        callbacks=[*callbacks, _keep_rows(model, rows)],
    )
    return rows


def train_resumably(
    model: keras.Model,
    data: ImageData,
    folder: RunFolder,
    *,
    learning_rate: float,
    batch_size: int,
    epochs: int,
    seed: int,
    verbose: int = 2,
) -> tuple[keras.Model, list[dict[str, float]]]:
    """Like `train`, with a checkpoint in the folder after every epoch, from which a later call goes on.

    Args:
        model: The model to train from the start. If there is a checkpoint, that is trained instead.
        data: What to train and test it on.
        folder: Where the checkpoint, the history and TensorBoard's logs are.
        learning_rate: The learning rate to begin with.
        batch_size: Images in a batch.
        epochs: How often every image is seen, all calls together.
        seed: Seed of the order and the augmentation.
        verbose: Keras's `verbose`.

    Returns:
        The trained model, and a row of metrics per epoch.
    """
    steps = data.steps_per_epoch(batch_size)
    rows: list[dict[str, float]] = []
    if folder.has(_CHECKPOINT):
        model = keras_of(model).saving.load_model(folder / _CHECKPOINT)
        # The optimizer counts the batches, so that this one file tells all: what a kill may leave behind of the
        # history, which is written before it, is one epoch too many.
        rows = folder.read_json(_HISTORY)[: int(model.optimizer.iterations) // steps]
        print(f"Going on after epoch {len(rows)} of {epochs}.")
    else:
        compile_model(model, learning_rate, steps * epochs)

    def save() -> None:
        # Unlike with `BackupAndRestore`, a kill at any moment leaves the checkpoint of the epoch before.
        folder.write_json(_HISTORY, rows)
        with folder.writing(_CHECKPOINT) as path:
            model.save(path)

    model.fit(
        data.train_batches(batch_size, seed, len(rows), epochs),
        steps_per_epoch=steps,
        initial_epoch=len(rows),
        epochs=epochs,
        validation_data=data.test_batches(),
        verbose=verbose,
        shuffle=False,
        callbacks=[
            _keep_rows(model, rows, save),
            keras_of(model).callbacks.TensorBoard(folder / "logs", write_graph=False),
        ],
    )
    return model, rows


def _keep_rows(model: keras.Model, rows: list[dict[str, float]], then: Callable[[], None] = lambda: None) -> Any:
    """Returns a callback of the model's Keras that adds a row of metrics after every epoch, and then calls `then`."""
    begin = time.perf_counter()

    def on_epoch_begin(epoch: int, logs: dict[str, Any] | None = None) -> None:
        nonlocal begin
        begin = time.perf_counter()

    def on_epoch_end(epoch: int, logs: dict[str, Any] | None = None) -> None:
        metrics = {name: float(value) for name, value in (logs or {}).items()}
        rows.append({"epoch": epoch + 1, **metrics, "seconds": time.perf_counter() - begin})
        then()

    return keras_of(model).callbacks.LambdaCallback(on_epoch_begin=on_epoch_begin, on_epoch_end=on_epoch_end)
