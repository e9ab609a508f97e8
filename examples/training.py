"""The training protocol of the FORCE paper, and a training that goes on where it was interrupted."""

from __future__ import annotations

import time
from typing import Any

import keras
from image_data import ImageData
from run_folder import RunFolder

_CHECKPOINT, _HISTORY = "checkpoint.keras", "history.json"


def cross_entropy() -> keras.losses.Loss:
    """Returns the loss that all examples train with and score: cross-entropy of logits and class numbers."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


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
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(
        [steps * 3 // 7, steps * 5 // 7], [learning_rate, learning_rate / 10, learning_rate / 100]
    )
    model.compile(
        keras.optimizers.SGD(schedule, momentum=0.9),
        cross_entropy(),
        metrics=["accuracy"],
        steps_per_execution=steps_per_execution,
    )


def train(
    model: keras.Model,
    data: ImageData,
    *,
    learning_rate: float,
    batch_size: int,
    epochs: int,
    seed: int,
    whole_epochs: bool = False,
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
    """
    steps = data.steps_per_epoch(batch_size)
    compile_model(model, learning_rate, steps * epochs, steps if whole_epochs else 1)
    rows = _Rows([])
    model.fit(
        data.train_batches(batch_size, seed, epochs=epochs),
        steps_per_epoch=steps,
        epochs=epochs,
        validation_data=data.test_batches(),
        verbose=0,
        shuffle=False,
        callbacks=[rows],
    )
    return rows.rows


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
        model = keras.saving.load_model(folder / _CHECKPOINT)
        # The optimizer counts the batches, so that this one file tells all: what a kill may leave behind of the
        # history, which is written before it, is one epoch too many.
        rows = folder.read_json(_HISTORY)[: int(model.optimizer.iterations) // steps]
        print(f"Going on after epoch {len(rows)} of {epochs}.")
    else:
        compile_model(model, learning_rate, steps * epochs)
    model.fit(
        data.train_batches(batch_size, seed, len(rows), epochs),
        steps_per_epoch=steps,
        initial_epoch=len(rows),
        epochs=epochs,
        validation_data=data.test_batches(),
        verbose=verbose,
        shuffle=False,
        callbacks=[_Checkpoint(rows, folder), keras.callbacks.TensorBoard(folder / "logs", write_graph=False)],
    )
    return model, rows


class _Rows(keras.callbacks.Callback):
    """Keeps a row of metrics per epoch."""

    def __init__(self, rows: list[dict[str, float]]):
        super().__init__()
        self.rows = rows

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._begin = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        metrics = {name: float(value) for name, value in (logs or {}).items()}
        self.rows.append({"epoch": epoch + 1, **metrics, "seconds": time.perf_counter() - self._begin})


class _Checkpoint(_Rows):
    """Saves the history and the model after every epoch.

    Unlike with `keras.callbacks.BackupAndRestore`, a kill at any moment leaves the checkpoint of the epoch before.
    """

    def __init__(self, rows: list[dict[str, float]], folder: RunFolder):
        super().__init__(rows)
        self._folder = folder

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_epoch_end(epoch, logs)
        self._folder.write_json(_HISTORY, self.rows)
        with self._folder.writing(_CHECKPOINT) as path:
            self.model.save(path)
