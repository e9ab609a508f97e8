"""What the configuration of a wrapper says: masks as text, and checks of what was read from a file."""

from __future__ import annotations

import base64
import binascii
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np


def text_of_mask(mask: np.ndarray) -> str:
    """Returns a mask as text that JSON can hold: its bits in C order, packed, compressed, in base 64.

    Args:
        mask: Boolean array of any shape.
    """
    return base64.b64encode(zlib.compress(np.packbits(mask, axis=None).tobytes(), level=1)).decode("ascii")


def mask_of_text(text: str, shape: tuple[int, ...], path: str) -> np.ndarray:
    """Returns the mask that `text_of_mask` made a text of.

    Args:
        text: The text.
        shape: The shape of the mask.
        path: The weight's path, for the error.

    Raises:
        ValueError: If the text is damaged, or of a mask of another size.
    """
    size = math.prod(shape)
    expected = (size + 7) // 8
    unpacking = zlib.decompressobj()
    try:
        # One byte more than expected, so that what is too long is noticed and never unpacked.
        packed = unpacking.decompress(base64.b64decode(text, validate=True), expected + 1)
    except (binascii.Error, zlib.error, ValueError):
        packed = b""
    if len(packed) != expected or not unpacking.eof:
        raise ValueError(
            f"Expected the mask of {path!r} in a wrapper's configuration to fit its weight of shape {shape}: leave "
            f"'masks' out of the configuration to keep all weights. Received: {_shortened(text)}"
        )
    return np.unpackbits(np.frombuffer(packed, np.uint8), count=size).astype(bool).reshape(shape)


def check_wrapper_config(config: Any) -> None:
    """Raises unless the configuration of a `MaskedLayer` has entries of the right kind.

    Args:
        config: What `get_config` of either wrapper returned, or what a file holds in its place.

    Raises:
        ValueError: If it is of another kind. It names the entry.
    """
    check_entries(
        config,
        layer=("the configuration of a layer", lambda value: isinstance(value, Mapping)),
        weights=("a list of weight paths, or None", lambda value: value is None or are_texts(value)),
        sub_layer_names=("a list of names", are_texts),
        masks=("a dict of a mask for each weight path", are_mask_texts),
        call_specs=("a text, or None", lambda value: value is None or isinstance(value, str)),
        needed=("layer",),
    )


def check_inner_layer(layer: Any, base: type) -> None:
    """Raises unless what a wrapper's configuration says to wrap is a layer.

    Args:
        layer: What Keras made of the entry.
        base: The class of the layers, or of the models, of this Keras.

    Raises:
        ValueError: If it is not.
    """
    if not isinstance(layer, base):
        kind = layer.__name__ if isinstance(layer, type) else type(layer).__name__
        raise ValueError(
            f"Expected a wrapper's configuration to hold a {base.__name__.lower()} of "
            f"{base.__module__.partition('.')[0]}. Received: {kind}"
        )


def check_entries(config: Any, needed: Sequence[str], **kinds: tuple[str, Callable[[Any], bool]]) -> None:
    """Raises unless the entries of a configuration are of the kinds asked for.

    Args:
        config: The configuration.
        needed: The entries that must be there.
        **kinds: What an entry must be, in words, and a function that tells whether it is.

    Raises:
        ValueError: If one is not.
    """
    if not isinstance(config, Mapping):
        raise ValueError(f"Expected the configuration of a wrapper to be a dict. Received: {_shortened(config)}")
    missing = [name for name in needed if name not in config]
    if missing:
        raise ValueError(f"Expected a wrapper's configuration with {missing}. Received: one with {sorted(config)}")
    for name, (words, is_right) in kinds.items():
        if name in config and not is_right(config[name]):
            raise ValueError(
                f"Expected {name!r} in a wrapper's configuration to be {words}. Received: {_shortened(config[name])}"
            )


def are_mask_texts(value: Any) -> bool:
    """Returns whether a value maps weight paths to texts."""
    return isinstance(value, Mapping) and are_texts([*value, *value.values()])


def are_texts(value: Any) -> bool:
    """Returns whether a value is a list of texts."""
    return isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value)


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]} …"
