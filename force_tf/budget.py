"""`Budget`: what a pruned network may cost, instead of how many of its weights are to go."""

from __future__ import annotations

import dataclasses
import math
import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from force_tf import layers
from force_tf.cost.flops import count_flops, takes_sparse_kernels
from force_tf.export import export_tflite
from force_tf.export.convert import QUANTIZATIONS
from force_tf.export.sparse_layers import blocked_in_short, sparse_kernel_layers
from force_tf.masks import Masks
from force_tf.models.collapse import CollapsedError
from force_tf.models.keras_models import array_variables, check_is_graph, input_specs, tf_variable
from force_tf.models.prunable import all_prunable_weights
from force_tf.models.rebuild import rebuild
from force_tf.models.weights import PrunableWeight
from force_tf.search.limits import BoundLimits, Limits
from force_tf.shrinking import shrink
from force_tf.shrinking.forecast import Forecast, Remains
from force_tf.support import arguments

_CALIBRATION_ROWS = 16
_BYTES = {None: 4, "float16": 2, "dynamic": 1, "int8": 1, "int8_io": 1}  # of a kept weight in the file


@dataclasses.dataclass(frozen=True)
class Budget(Limits):
    """What a pruned network may cost: multiply-adds, parameters, or bytes of its file, or several of them.

    What counts is what `shrink` leaves of the pruned network. A number below 1 is a fraction of what the dense model
    costs, another one an absolute number.

    Args:
        flops: Multiply-adds for one sample, as `count_flops` counts them in what `shrink` leaves, zeros included.
        parameters: The kept weights that `shrink` leaves, and all its other variables: biases, scales, statistics.
        file_bytes: Bytes of the file that `export_tflite` writes.
        quantize: The types of that file's numbers, as in `export_tflite`.
        sparse_kernels: Whether `flops` are those that a phone takes which leaves zeros out, as `count_flops(...,
            sparse_kernels=True)` counts them: for networks that `sparse_kernel_layers` finds fit for it.

    Raises:
        TypeError: If a cost is no number.
        ValueError: If none is given, one is not positive, `quantize` or `sparse_kernels` has another value than it may
            have, or stands without `file_bytes` or `flops`.

    Example:

    >>> force_tf.PruneAtInit("force", budget=force_tf.Budget(parameters=50_000)).budget.parameters
    50000
    """

    flops: float | int | None = None
    parameters: float | int | None = None
    file_bytes: float | int | None = None
    quantize: str | None = None
    sparse_kernels: bool = False

    def __post_init__(self):
        given = _given(self)
        for name, value in given.items():
            arguments.number(name, value, "(0, inf)")
        if not given:
            raise ValueError("Expected one of `flops`, `parameters` and `file_bytes`. Received: Budget()")
        if self.quantize not in QUANTIZATIONS:
            raise ValueError(f"Expected `quantize` to be one of {QUANTIZATIONS}. Received: quantize={self.quantize!r}")
        if self.quantize is not None and self.file_bytes is None:
            raise ValueError(f"Expected `file_bytes` where `quantize` is given. Received: quantize={self.quantize!r}")
        arguments.one_of("sparse_kernels", self.sparse_kernels, (True, False))
        if self.sparse_kernels and self.flops is None:
            raise ValueError("Expected `flops` where `sparse_kernels` is given. Received: sparse_kernels=True")

    def bound(self, model: Any, weights: Sequence[PrunableWeight]) -> BoundLimits:
        check_is_graph(model)
        return _Bound(model, weights, self)


def _given(budget: Budget) -> dict[str, float]:
    every = {"flops": budget.flops, "parameters": budget.parameters, "file_bytes": budget.file_bytes}
    return {name: value for name, value in every.items() if value is not None}


class _Bound(BoundLimits):
    def __init__(self, model: Any, weights: Sequence[PrunableWeight], budget: Budget):
        self._weights, self._quantize = weights, budget.quantize
        self._model = rebuild(model)  # as it is before a search moves its statistics, of which constants are made
        given = _given(budget)
        self._names = list(given)
        self._sparse_paths = _sparse_paths(model) if budget.sparse_kernels else ()
        every = [np.ones(weight.shape, bool) for weight in weights]
        dense = self.measured(every)
        if dense is None:
            raise ValueError(
                f"Expected a model whose outputs depend on its inputs. Received: {model.name!r}, which has collapsed"
            )
        self._forecast = Forecast(self._model, self._masks(every))
        self.dense = dense
        self.most = {
            name: math.floor(value * self.dense[name]) if value < 1 else int(value) for name, value in given.items()
        }

    def _masks(self, masks: Sequence[np.ndarray]) -> Masks:
        """Returns masks of all weights that may be pruned: those that are not have all of theirs."""
        kept = {weight.path: mask for weight, mask in zip(self._weights, masks)}
        others = {w.path: np.ones(w.shape, bool) for w in all_prunable_weights(self._model) if w.path not in kept}
        return Masks({**kept, **others})

    def costs(self, masks: Sequence[np.ndarray]) -> Mapping[str, int] | None:
        remains = self._forecast(self._masks(masks))
        if remains is None:
            return None
        found = {}
        if "flops" in self.most and remains.uses.others:
            return self.measured(masks)  # products of attention, whose sizes are those of the network itself
        if "flops" in self.most:
            found["flops"] = remains.flops(self._seen_by_phones(remains))
        if "parameters" in self.most:
            found["parameters"] = remains.parameters
        if "file_bytes" in self.most:
            # A file is written only if it can be within the budget: it has at least the numbers of the kept weights.
            least = _BYTES[self._quantize] * remains.kept(remains.weights).kept
            if self.share({**found, "file_bytes": least}) <= 1:
                return self.measured(masks)
            found["file_bytes"] = least
        return found

    def measured(self, masks: Sequence[np.ndarray]) -> Mapping[str, int] | None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Every channel of the model")
            try:
                small = shrink(layers.apply_masks(self._model, self._masks(masks)))
            except CollapsedError:
                return None
        masks_left = layers.get_masks(small)
        plain = layers.strip_pruning(small)
        measured = {
            "flops": lambda: self._flops(plain, masks_left),
            "parameters": lambda: _parameters(plain, masks_left),
            "file_bytes": lambda: _file_bytes(plain, masks_left, self._quantize),
        }
        return {name: measured[name]() for name in self._names}

    def _flops(self, model: Any, masks: Masks) -> int:
        if self._sparse_paths:
            return count_flops(model, masks, sparse_kernels=True)
        return count_flops(model, {})

    def _seen_by_phones(self, remains: Remains) -> tuple[str, ...]:
        """Returns the weights whose zeros take no multiply-adds."""
        together = remains.kept(self._sparse_paths)
        return self._sparse_paths if takes_sparse_kernels(together.kept, together.size) else ()


def _sparse_paths(model: Any) -> tuple[str, ...]:
    found = sparse_kernel_layers(model)
    if not found.paths:
        blocked = "; ".join(f"{paths}: {reason}" for paths, reason in blocked_in_short(found))
        raise ValueError(
            "Expected a model of which phones can run layers sparsely (see `sparse_kernel_layers`), or "
            f"sparse_kernels=False. Received: {model.name!r}, with {blocked or 'no such layer'}"
        )
    return tuple(found.paths)


def _parameters(model: Any, masks: Masks) -> int:
    return model.count_params() - (masks.total - masks.kept)


def _file_bytes(model: Any, masks: Masks, quantize: str | None) -> int:
    """Returns the bytes of a model's file once it is trained: equal numbers, as at the start, would be stored once."""
    random = np.random.default_rng(0)
    kept = {id(weight.variable): masks[weight.path] for weight in all_prunable_weights(model) if weight.path in masks}
    for variable in array_variables(model):
        if tf.as_dtype(variable.dtype).is_floating:
            drawn = random.uniform(0.01, 0.1, tuple(variable.shape))
            tf_variable(variable).assign(tf.cast(drawn * kept.get(id(variable), 1), variable.dtype))
    data = None
    if quantize in ("int8", "int8_io"):
        specs = input_specs(model)
        data = tf.nest.map_structure(
            lambda spec: tf.cast(random.normal(size=[_CALIBRATION_ROWS, *spec.shape[1:]]), spec.dtype), specs
        )
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.tflite")
        report = export_tflite(
            model, path, quantize=quantize, representative_data=data, tolerance=math.inf, verbose=False
        )
    return report.bytes
