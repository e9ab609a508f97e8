"""`shrink`: the smaller model that computes the same function."""

from __future__ import annotations

import warnings
from typing import Any

import keras

from force_tf.channels.rules import Cut
from force_tf.layers import get_masks, is_pruned
from force_tf.layers.apply import changed_copy
from force_tf.masks import Masks
from force_tf.models import prunable
from force_tf.models.collapse import CollapsedError
from force_tf.models.keras_models import check_is_graph, check_model
from force_tf.models.rebuild import rebuild
from force_tf.shrinking.analysis import analyses_of


def shrink(model: keras.Model) -> keras.Model:
    """Returns a smaller model that computes the same function, without the channels that pruning has killed.

    A channel goes when nothing that reaches the output reads it, or when it is constant, that is the same for every
    input of the model. A constant goes on into the bias of what reads it; where padding makes that inexact at the
    borders, all constant channels that a tensor has become one.

    Args:
        model: A built Functional or Sequential model of either Keras, wrapped by `apply_masks` or plain. Models inside
            it keep the channels of their inputs and outputs.

    Returns:
        A new model of the same class, inputs, outputs and layer names. A wrapped model comes back wrapped, with its
        masks cut to size, compiled as it is with a new optimizer of the same configuration.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If the model is not built, or Keras cannot copy it.
        CollapsedError: If an output of the model does not depend on its inputs.

    Example:

    ```python
    pruned = force_tf.PruneAtInit("force", sparsity=0.99).prune(model, data)
    small = force_tf.shrink(pruned)
    small.fit(x, y)
    ```
    """
    check_model(model)
    check_is_graph(model)
    wrapped = is_pruned(model)
    cuts = _cuts(model, wrapped)
    if not cuts:
        warnings.warn(
            f"Every channel of the model {model.name!r} is needed: it comes back as it is. Prune whole channels, by "
            "`granularity='channel'`, or more weights.",
            stacklevel=2,
        )
    return changed_copy(model, _cut_masks(model, cuts), cuts) if wrapped else rebuild(model, changes=cuts)


def _cuts(model: Any, masked: bool) -> dict[int, Cut]:
    """Returns how to cut each layer of a model and of the models inside it, by the id of the unwrapped layer."""
    analyses = analyses_of(model, masked)
    if analyses[-1].collapsed:
        raise CollapsedError(
            "Expected a model whose outputs depend on its inputs: keep more weights. "
            f"Received: {model.name!r}, which has collapsed"
        )
    return {key: cut for analysis in analyses for key, cut in analysis.cuts().items()}


def _cut_masks(model: Any, cuts: dict[int, Cut]) -> Masks:
    masks = get_masks(model)
    found = dict(masks)
    for weight in prunable.all_prunable_weights(model):
        for layer, layer_path in zip(weight.layers, weight.layer_paths):
            relative = weight.path.removeprefix(f"{layer_path}/")
            if weight.path in found and id(layer) in cuts and relative in cuts[id(layer)].masks:
                found[weight.path] = cuts[id(layer)].masks[relative]
    return masks.replace(found)
