"""`redraw_weights`: other initial weights from the same initializers."""

from __future__ import annotations

from typing import Any

import numpy as np

from force_tf.models.keras_models import array_variables, check_model, keras_of
from force_tf.models.paths import walk_layers
from force_tf.models.weights import own_weights
from force_tf.support import arguments

# Weights whose initializer is not named after them.
_INITIALIZERS = {
    "recurrent_kernel": "recurrent_initializer",
    "depthwise_kernel": "depthwise_initializer",
    "pointwise_kernel": "pointwise_initializer",
}


def redraw_weights(model: Any, seed: int | None = None) -> None:
    """Gives a model other initial weights, in place, drawn by the initializers of its layers.

    A sanity check of pruning at initialization: if networks train as well with redrawn weights under the same masks, a
    method has found a structure, and not weights that are worth more than others. Masks stay as they are, and so do
    what layers adapted to data (as `Normalization` does) and the optimizer. The statistics of normalizations start
    anew. Initializers that have a seed of their own draw by another one.

    Args:
        model: A built model of either Keras, wrapped by `apply_masks` or plain.
        seed: Draws the weights; None for others every time.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If the model is not built, or a trainable weight has no initializer that its layer tells; nothing
            has changed then.

    References:
        - [Pruning Neural Networks at Initialization: Why Are We Missing the
          Mark?](https://arxiv.org/abs/2009.08576)
    """
    check_model(model)
    seed = None if seed is None else arguments.integer("seed", seed, minimum=0)
    found, unknown = _initializers(model)
    if unknown:
        raise ValueError(
            "Expected layers that keep the initializer of a weight `name` as `name_initializer`, as those of Keras do. "
            f"Received: the model {model.name!r}, with {', '.join(unknown)} without one"
        )
    random = np.random.default_rng(seed)
    for variable, initializer, forget_units in found:
        drawn = _with_seed(initializer, int(random.integers(2**31)))
        value = np.array(drawn(tuple(variable.shape), dtype=variable.dtype))
        value[forget_units : 2 * forget_units] = 1
        variable.assign(value)


def _initializers(model: Any) -> tuple[list[tuple[Any, Any, int]], list[str]]:
    """Returns how the variables of a model are drawn, and the paths of trainable ones of which no layer tells it.

    A variable comes with its initializer and, for the bias of an LSTM whose forget gates start at 1, with its units.
    """
    found: dict[int, tuple[Any, Any, int]] = {}
    paths: dict[int, str] = {}
    for path, chain in walk_layers(model):
        for name, variable in own_weights(chain[-1]).items():
            paths.setdefault(id(variable), f"{path}/{name.lstrip('_')}")
            initializer = _initializer(chain[-1], name.lstrip("_"))
            if initializer is not None:
                forgets = name.lstrip("_") == "bias" and getattr(chain[-1], "unit_forget_bias", False)
                found.setdefault(id(variable), (variable, initializer, chain[-1].units if forgets else 0))
    trainable = {id(variable) for variable in model.trainable_variables}
    order = [variable for variable in array_variables(model) if id(variable) in found]
    unknown = [
        paths.get(id(variable), variable.name)
        for variable in array_variables(model)
        if id(variable) in trainable and id(variable) not in found
    ]
    return [found[id(variable)] for variable in order], unknown


def _initializer(layer: Any, name: str) -> Any | None:
    initializer = getattr(layer, _INITIALIZERS.get(name, f"{name}_initializer"), None)
    initializers = keras_of(layer).initializers
    return initializers.get(initializer) if isinstance(initializer, str) else initializer


def _with_seed(initializer: Any, seed: int) -> Any:
    """Returns an initializer that draws by a seed; itself where it draws nothing."""
    config = initializer.get_config() if hasattr(initializer, "get_config") else {}
    return type(initializer).from_config({**config, "seed": seed}) if "seed" in config else initializer
