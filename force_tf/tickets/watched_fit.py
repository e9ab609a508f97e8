"""What a search of tickets sees and changes of a training that the user's own function makes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from force_tf.models.keras_models import keras_of


class WatchedFit:
    """Looks at the steps of the optimizer while `model.fit` or `model.train_on_batch` trains.

    Only the one object is watched: its two methods are called through this one until `release`.

    Args:
        model: The model that is going to train.
        first_step: The step of the optimizer to begin at, in place of 0.
        at: A step to be told of; None for none.
        then: Called once with the step, after it, or after the last of several that ran at once.
        last_step: The step after which a `fit` ends; None for its own end.
    """

    def __init__(
        self,
        model: Any,
        *,
        first_step: int = 0,
        at: int | None = None,
        then: Callable[[int], None] = lambda step: None,
        last_step: int | None = None,
    ):
        self._model, self._first_step, self._at, self._then, self._last_step = model, first_step, at, then, last_step
        self._to_go: float = 0  # no batch makes more than one step, and asking the optimizer waits for the device
        self._batch = -1
        self._optimizer: Any = None  # that trains
        self._before = 0  # the steps of those that trained before it
        self._of_first = 0  # those of the first one, when another trains
        callbacks = keras_of(model).callbacks
        self._callback = callbacks.LambdaCallback(
            on_train_begin=lambda logs=None: self._begin(),
            on_epoch_begin=lambda epoch, logs=None: self._begin_epoch(),
            on_train_batch_end=lambda batch, logs=None: self._after_batch(batch),
        )
        model.fit = self._fit(model.fit, callbacks.CallbackList)
        model.train_on_batch = self._train_on_batch(model.train_on_batch)

    def release(self) -> None:
        """Watches no longer."""
        del self._model.fit, self._model.train_on_batch

    @property
    def steps(self) -> int:
        """How many steps the optimizer has made, those before `first_step` included, and those of others before it."""
        steps = self._before + steps_of(self._model)
        return steps if self._optimizer in (None, self._model.optimizer) else steps + _steps(self._optimizer)

    @property
    def steps_of_first(self) -> int:
        """How many of them the first optimizer that trained has made."""
        return self._of_first or self.steps

    def _fit(self, fit: Callable[..., Any], list_class: type) -> Callable[..., Any]:
        signature = inspect.signature(fit)

        def watched(*args, **kwargs):
            bound = signature.bind(*args, **kwargs)
            given = bound.arguments.get("callbacks")
            if isinstance(given, list_class):
                given.append(self._callback)
            else:
                bound.arguments["callbacks"] = [*tf.nest.flatten([] if given is None else given), self._callback]
            return fit(*bound.args, **bound.kwargs)

        return watched

    def _train_on_batch(self, train_on_batch: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args, **kwargs):
            self._begin()
            result = train_on_batch(*args, **kwargs)
            self._look()
            return result

        return watched

    def _begin(self) -> None:
        # Here and not before, since the user's function may compile the model.
        if self._optimizer is None and not steps_of(self._model):
            set_steps(self._model, self._first_step)
        if self._optimizer not in (None, self._model.optimizer):
            # Compiled anew between two trainings: its steps count from 0, as they did in the first round.
            self._before += _steps(self._optimizer)
            self._of_first = self._of_first or self._before
            self._at = None  # a rewound training begins with the first optimizer
        self._optimizer = self._model.optimizer
        if self._at is not None and self.steps > self._at:
            self._at = None  # a training that goes on where it was killed, which has told of it before

    def _begin_epoch(self) -> None:
        self._batch, self._to_go = -1, 0

    def _after_batch(self, batch: int) -> None:
        self._to_go -= batch - self._batch
        self._batch = batch
        if self._to_go <= 0:
            self._look()

    def _look(self) -> None:
        now = self.steps
        if self._at is not None and now >= self._at:
            self._at = None
            self._then(now)
        if self._last_step is not None and now >= self._last_step:
            self._model.stop_training = True
        due = [step - now for step in (self._at, self._last_step) if step is not None]
        self._to_go = min(due, default=float("inf"))


def steps_of(model: Any) -> int:
    """Returns how many steps the optimizer of a model has made; 0 where it has none."""
    return _steps(getattr(model, "optimizer", None))


def set_steps(model: Any, steps: int) -> None:
    """Makes the optimizer of a model, if it has one, go on after so many steps: its learning rate may go by them."""
    counter = _counter(getattr(model, "optimizer", None))
    if counter is not None and steps:
        counter.assign(steps)


def _steps(optimizer: Any) -> int:
    counter = _counter(optimizer)
    return 0 if counter is None else int(tf.convert_to_tensor(counter))


def _counter(optimizer: Any) -> Any | None:
    # The one that scales losses in mixed precision counts no steps in older versions of Keras.
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    return getattr(optimizer, "iterations", None)
