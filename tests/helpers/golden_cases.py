"""Masks that the official implementations of the methods made in float64, and the models that they made them for.

Each file in `golden/` holds a model's specification and weights, images, labels, and for every case ("tag") the masks
of the official FORCE, GraSP, SynFlow or ProsPr code: `m:<tag>:<layer>/kernel`. A tag such as `force:d=0.05,T=10,B=1`
gives method, density, steps and batches; `ties` says that equal scores meet at the cut.
"""

import functools
import json
import pathlib

import numpy as np

import force_tf

FOLDER = pathlib.Path(__file__).parents[1] / "golden"
FILES = ("lenet", "vgg_bn")


@functools.cache
def load(name):
    """Returns (spec, list of batches (x float64, y int64), weights by path, masks by tag)."""
    with np.load(FOLDER / f"{name}.npz") as data:
        arrays = dict(data)
    spec = json.loads(str(arrays["spec"]))
    x = (arrays["x"] / 255.0 - 0.5) / 0.25
    size = spec["batch_size"]
    batches = [(x[i : i + size], arrays["y"][i : i + size]) for i in range(0, len(x), size)]
    weights = {key[2:]: value for key, value in arrays.items() if key.startswith("w:")}
    masks = {}
    for key, value in arrays.items():
        if key.startswith("m:"):
            tag, path = key[2:].rsplit(":", 1)
            masks.setdefault(tag, {})[path] = value
    return spec, batches, weights, masks


def tags():
    return [(name, tag) for name in FILES for tag in load(name)[3]]


def build(keras, name):
    """Builds the model in float64 with `keras`, which may be either Keras, and gives it the weights of the case."""
    spec, _, weights, _ = load(name)
    layers = keras.layers
    makers = {
        "conv": lambda filters, size, bias, **names: layers.Conv2D(
            filters, size, padding="same", use_bias=bias, **names
        ),
        "bn": lambda **names: layers.BatchNormalization(epsilon=spec["bn_epsilon"], **names),
        "relu": layers.ReLU,
        "maxpool": layers.MaxPooling2D,
        "flatten": layers.Flatten,
        "dense": layers.Dense,
    }
    model = keras.Sequential([keras.Input(tuple(spec["input"]), dtype="float64")])
    count = dict.fromkeys(makers, 0)
    for kind, *arguments in spec["spec"]:
        model.add(makers[kind](*arguments, name=f"{kind}_{count[kind]}", dtype="float64"))
        count[kind] += 1
    for path, value in weights.items():
        layer, attribute = path.split("/")
        getattr(model.get_layer(layer), attribute).assign(value)
    return model


def settings(tag):
    """Returns (method, options of the tag, set of its flags)."""
    method, _, rest = tag.partition(":")
    parts = rest.split(",")
    return method, dict(part.split("=") for part in parts if "=" in part), {part for part in parts if "=" not in part}


def pruner_for(tag):
    """Returns the `PruneAtInit` with the settings of a tag."""
    method, options, flags = settings(tag)
    if method == "prospr":
        method = force_tf.criteria.ProsPr(
            inner_steps=int(options["M"]),
            inner_learning_rate=float(options["lr"]),
            momentum=float(options["momentum"]),
            first_order="first_order" in flags,
        )
    return force_tf.PruneAtInit(
        method,
        sparsity=1 - float(options["d"]),
        steps=int(options.get("T", 1)),
        batches=int(options.get("B", 1)),
        schedule="linear" if "linear" in flags else None,
    )
