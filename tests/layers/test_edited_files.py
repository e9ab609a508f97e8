"""Files whose wrappers were edited by hand: one clear sentence, and no other Keras than the one that loads."""

import base64
import json
import zipfile
import zlib

import keras
import numpy as np
import pytest
import tf_keras

from force_tf.layers import apply_masks, get_masks
from helpers.subclassed_models import built, masks_for, two_layers


def edited(path, class_name, edit):
    """Writes a copy of a .keras file in which the configurations of a class are edited, and returns its path."""

    def visit(config):
        if isinstance(config, dict) and config.get("class_name") == class_name:
            edit(config["config"])
        for value in config.values() if isinstance(config, dict) else config if isinstance(config, list) else ():
            visit(value)

    result = path.with_name(f"edited_{path.name}")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(result, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "config.json":
                config = json.loads(content)
                visit(config)
                content = json.dumps(config).encode()
            new.writestr(name, content)
    return result


def saved_graph(module, path):
    model = module.Sequential([module.Input((6,)), module.layers.Dense(3, name="dense")])
    pruned = apply_masks(model, masks_for(model))
    pruned.save(path)
    return pruned


EMPTY = "eJwDAAAAAAE="  # zlib of nothing
OPTIMIZER = {"module": "{}.optimizers", "class_name": "SGD", "config": {}, "registered_name": None}
ODD_WRAPPERS = {
    "weights of a number": ({"weights": 3}, "'weights' .* list of weight paths, or None. Received: 3"),
    "weights of numbers": ({"weights": [3]}, r"'weights' .*Received: \[3\]"),
    "weights of a text": ({"weights": "kernel"}, "'weights' .*Received: 'kernel'"),
    "unknown weights": ({"weights": ["kernel", "nothing"]}, "name weights of 'dense' .*Received: 'nothing'"),
    "names of None": ({"sub_layer_names": None}, "'sub_layer_names' .* list of names. Received: None"),
    "negative names": ({"sub_layer_names": -1}, "'sub_layer_names' .*Received: -1"),
    "masks of a list": ({"masks": ["kernel"]}, r"'masks' .*Received: \['kernel'\]"),
    "masks of numbers": ({"masks": {"kernel": 1}}, "'masks' .*Received: {'kernel': 1}"),
    "unknown masks": ({"masks": {"other": EMPTY}}, r"weights among \['kernel'\]. Received: \['other'\]"),
    "no mask": ({"masks": {"kernel": "none"}}, r"mask of 'kernel' .* of shape \(6, 3\).*Received: 'none'"),
    "no base 64": ({"masks": {"kernel": "ü"}}, r"mask of 'kernel' .* of shape \(6, 3\).*Received: 'ü'"),
    "an empty mask": ({"masks": {"kernel": EMPTY}}, r"mask of 'kernel' .* of shape \(6, 3\)"),
    "no layer": ({"layer": 5}, "'layer' .* configuration of a layer. Received: 5"),
    "an optimizer": ({"layer": OPTIMIZER}, "to hold a layer of {}. Received: (SGD|str)"),
}


@pytest.mark.parametrize("name", ODD_WRAPPERS)
def test_odd_values_in_a_wrapper_are_told(name, either_keras, tmp_path):
    saved_graph(either_keras, tmp_path / "a.keras")
    changes, message = ODD_WRAPPERS[name]
    changes = json.loads(json.dumps(changes).replace("{}.opt", f"{either_keras.__name__.removeprefix('tf_')}.opt"))
    path = edited(tmp_path / "a.keras", "MaskedLayer", lambda config: config.update(changes))
    with pytest.raises(ValueError, match="^Expected .*" + message.replace("{}", either_keras.__name__)):
        either_keras.saving.load_model(path)


def test_a_wrapper_without_a_layer_is_told(either_keras, tmp_path):
    saved_graph(either_keras, tmp_path / "a.keras")
    path = edited(tmp_path / "a.keras", "MaskedLayer", lambda config: config.pop("layer"))
    with pytest.raises(ValueError, match=r"^Expected a wrapper's configuration with \['layer'\]"):
        either_keras.saving.load_model(path)


def test_files_from_before_masks_were_in_configurations_load(either_keras, tmp_path):
    pruned = saved_graph(either_keras, tmp_path / "a.keras")
    path = edited(tmp_path / "a.keras", "MaskedLayer", lambda config: config.pop("masks"))
    assert get_masks(either_keras.saving.load_model(path)) == get_masks(pruned)


def saved_in_place(module, path):
    @module.saving.register_keras_serializable("force_tf_tests", f"InPlaceOf{module.__name__}")
    class Built(two_layers(module)):
        def build(self, input_shape):
            self.hidden.build((None, 4))
            self.logits.build((None, 8))
            self.built = True

    model = built(Built)
    pruned = apply_masks(model, masks_for(model))
    pruned.save(path)
    return pruned


ODD_MODELS = {
    "layers of None": ({"layer_names": None}, "'layer_names' .*Received: None"),
    "more layers": ({"layer_names": ["a"] * 7}, "with 2 layers instead of 7"),
    "weights of a list": ({"masked_weights": ["kernel"]}, r"'masked_weights' .*Received: \['kernel'\]"),
    "weights of text": ({"masked_weights": {"hidden": "kernel"}}, "'masked_weights' .*Received: {'hidden': 'kernel'}"),
    "the model itself": ({"masked_weights": {"": ["kernel"]}}, "'masked_weights' .*Received: {'': "),
    "unknown layer": ({"masked_weights": {"nowhere": ["kernel"]}}, r"without weights in \['nowhere'\]"),
    "unknown weight": ({"masked_weights": {"hidden": ["nothing"]}}, "name weights of 'hidden' .*Received: 'nothing'"),
    "masks of text": ({"masks": "all"}, "'masks' .*Received: 'all'"),
    "no model": ({"model": "all"}, "'model' .*Received: 'all'"),
    "an optimizer": ({"model": OPTIMIZER}, "to hold a model of {}. Received: SGD"),
}


@pytest.mark.parametrize("name", ODD_MODELS)
def test_odd_values_in_a_model_that_was_wrapped_in_place_are_told(name, either_keras, tmp_path):
    saved_in_place(either_keras, tmp_path / "a.keras")
    changes, message = ODD_MODELS[name]
    changes = json.loads(json.dumps(changes).replace("{}.opt", f"{either_keras.__name__.removeprefix('tf_')}.opt"))
    path = edited(tmp_path / "a.keras", "InPlaceModel", lambda config: config.update(changes))
    with pytest.raises(ValueError, match="^Expected .*" + message.replace("{}", either_keras.__name__)):
        either_keras.saving.load_model(path)


@pytest.mark.parametrize("other", [keras, tf_keras], ids=["keras", "tf_keras"])
def test_the_keras_that_loads_goes_on_whatever_the_file_says(either_keras, other, tmp_path, monkeypatch):
    pruned = saved_in_place(either_keras, tmp_path / "a.keras")
    path = edited(tmp_path / "a.keras", "InPlaceModel", lambda config: config.update(keras=other.__name__))
    stranger = tf_keras if either_keras is keras else keras

    def refuse(*args, **kwargs):
        raise AssertionError("the other Keras was asked to load")

    monkeypatch.setattr(stranger.saving, "deserialize_keras_object", refuse)
    loaded = either_keras.saving.load_model(path)
    assert get_masks(loaded) == get_masks(pruned)


def test_a_mask_that_unpacks_to_more_than_its_weight_is_not_unpacked(tmp_path):
    saved_graph(keras, tmp_path / "a.keras")
    bomb = base64.b64encode(zlib.compress(np.zeros(2**24, np.uint8).tobytes(), 9)).decode()
    path = edited(tmp_path / "a.keras", "MaskedLayer", lambda config: config.update(masks={"kernel": bomb}))
    with pytest.raises(ValueError, match=r"^Expected the mask of 'kernel' .*Received: .{200} …$"):
        keras.saving.load_model(path)
