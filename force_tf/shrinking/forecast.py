"""What `shrink` would leave of a model under many masks, told without the models that it would make."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from force_tf.cost.flops import WeightUses, weight_uses
from force_tf.layers import apply_masks
from force_tf.masks import Masks
from force_tf.models.paths import mask_wrappers, unwrapped
from force_tf.models.prunable import all_prunable_weights
from force_tf.models.weights import variable_at
from force_tf.shrinking.analysis import analyses_of


@dataclasses.dataclass(frozen=True)
class Left:
    """What is left of a weight: `size` numbers, zeros included, of which `kept` are not pruned."""

    size: int
    kept: int


@dataclasses.dataclass(frozen=True)
class Remains:
    """What `shrink` leaves of a model under masks.

    Attributes:
        weights: What is left of every weight that has a mask, by its path.
        others: What is left of the other variables, by their ids; those that come new have names.
        uses: How often each variable of the model is used.
        keys: The ids of the variables of `weights`, by their paths.
    """

    weights: Mapping[str, Left]
    others: Mapping[int | str, int]
    uses: WeightUses
    keys: Mapping[str, int]

    @property
    def parameters(self) -> int:
        """The weights that are kept, and all other variables."""
        return self.kept(self.weights).kept + sum(self.others.values())

    def kept(self, paths: Iterable[str]) -> Left:
        """Returns what is left of several weights together."""
        found = [self.weights[path] for path in paths]
        return Left(sum(each.size for each in found), sum(each.kept for each in found))

    def flops(self, sparse_paths: Iterable[str] = ()) -> int:
        """Returns the multiply-adds, where the zeros of some weights take none."""
        sparse = set(sparse_paths)
        numbers = dict(self.others)
        for path, left in self.weights.items():
            numbers[self.keys[path]] = left.kept if path in sparse else left.size
        return self.uses.others + sum(times * numbers[key] for key, times in self.uses.times.items())


class Forecast:
    """Tells what `shrink` would leave of a model.

    Args:
        model: A built Functional or Sequential model of either Keras, not wrapped; it stays as it is.
        masks: Masks of its weights; those that are asked about later are of the same paths.
    """

    def __init__(self, model: Any, masks: Masks):
        self._pruned = apply_masks(model, masks)
        self._wrappers = mask_wrappers(self._pruned)
        by_path = {weight.path: weight.variable for weight in all_prunable_weights(self._pruned)}
        self._keys = {path: id(by_path[path]) for path in masks}
        # What was pruned before may be kept later, and what constants it makes depends on its value.
        self._values = [(by_path[weight.path], weight.variable) for weight in all_prunable_weights(model)]
        self._values = [(variable, tf.convert_to_tensor(value)) for variable, value in self._values]
        inner = {id(weight) for _, wrapper in self._wrappers for weight in unwrapped(wrapper).weights}
        masks_alone = {id(weight) for _, wrapper in self._wrappers for weight in wrapper.weights} - inner
        self._sizes = {
            id(weight): math.prod(weight.shape) for weight in self._pruned.weights if id(weight) not in masks_alone
        }

    def __call__(self, masks: Mapping[str, np.ndarray]) -> Remains | None:
        """Returns what is left under masks; None if the model has collapsed.

        Raises:
            UnknownSizeError: If how often a weight is used depends on an input's size that may vary.
        """
        for variable, value in self._values:
            variable.assign(value)
        for path, wrapper in self._wrappers:
            wrapper.place_masks({weight.path: masks[f"{path}/{weight.path}"] for weight in wrapper.masked_weights})
        analyses = analyses_of(self._pruned, masked=True)
        if analyses[-1].collapsed:
            return None
        kept = {key: int(np.count_nonzero(masks[path])) for path, key in self._keys.items()}
        left = {key: Left(size, kept.get(key, size)) for key, size in self._sizes.items()}
        new: dict[str, int] = {}
        layers = {id(unwrapped(call.layer)): unwrapped(call.layer) for each in analyses for call in each.graph.calls}
        for key, cut in ((key, cut) for analysis in analyses for key, cut in analysis.cuts().items()):
            for path, value in cut.values.items():
                variable, size = variable_at(layers[key], path), int(np.size(value))
                if variable is None:  # as a bias that takes in constants
                    new[f"{key}/{path}"] = size
                else:
                    mask = cut.masks.get(path)
                    left[id(variable)] = Left(size, size if mask is None else int(np.count_nonzero(mask)))
        weights = {path: left[key] for path, key in self._keys.items()}
        masked = set(self._keys.values())
        others = {key: each.size for key, each in left.items() if key not in masked} | new
        return Remains(weights, others, self._uses, self._keys)

    @functools.cached_property
    def _uses(self) -> WeightUses:
        return weight_uses(self._pruned)
