"""The parts of the examples: networks as published, and batches that depend on seed and epoch alone."""

import math
import pathlib
import re
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from absl.testing import flagsaver

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "benchmarks"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "examples"))

# isort: split
import compared_methods
import image_data
import list_flags
import networks
import run_folder
import training

import force_tf

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("name", "shape", "weights"),
    [
        # What the papers (or, to the weight, the counts of their official codes) say of the trainable weights.
        ("lenet_300_100", (28, 28, 1), 266_610),
        ("lenet_5", (28, 28, 1), 431_080),
        ("vgg11", (32, 32, 3), 9_228_362),
        ("vgg16", (32, 32, 3), 14_724_042),
        ("vgg19", (32, 32, 3), 20_035_018),
        ("vgg19_16px", (16, 16, 3), 20_035_018),
        ("resnet20", (32, 32, 3), 272_474),
        ("resnet50", (32, 32, 3), 23_520_842),
    ],
)
def test_networks_have_the_published_size(name, shape, weights):
    model = networks.build(name, shape, classes=10)
    assert sum(math.prod(variable.shape) for variable in model.trainable_variables) == weights
    assert model.output_shape == (None, 10)
    assert model.layers[-1].activation is keras.activations.linear, "the last layer returns logits"


def test_vgg19_for_half_the_pixels_ends_in_maps_of_the_size_of_the_papers():
    for name, size in (("vgg19", 32), ("vgg19_16px", 16)):
        model = networks.build(name, (size, size, 3), classes=10, width=0.05)
        assert model.get_layer("block5_4_conv").output.shape[1:3] == (2, 2), name
        assert model.get_layer("block4_4_conv").output.shape[1:3] == (size // 8, size // 8), name


def test_narrow_networks_have_a_part_of_the_channels():
    wide, narrow = (networks.build("resnet20", (8, 8, 3), classes=10, width=width) for width in (1.0, 0.25))
    shapes = [[tuple(weight.shape) for weight in model.weights if len(weight.shape) == 4] for model in (wide, narrow)]
    first, *others = zip(*shapes)
    assert first == ((3, 3, 3, 16), (3, 3, 3, 4))
    assert all(b == (*a[:2], a[2] // 4, a[3] // 4) for a, b in others)
    assert networks.build("lenet_300_100", (4, 4, 1), classes=7, width=0.01).output_shape == (None, 7)


def test_images_are_averaged():
    images = np.arange(2 * 4 * 4).reshape(2, 4, 4, 1).astype(np.uint8)
    data = image_data.ImageData(images, np.array([0, 1]), images, np.array([0, 1]), 2, augment=True).averaged(2)
    np.testing.assert_array_equal(data.train_images[0, :, :, 0], [[2, 4], [10, 12]])  # 2.5, 4.5, 10.5, 12.5
    assert (data.test_images.shape, data.augment) == ((2, 2, 2, 1), False)
    assert data.averaged(16).input_shape == (2, 2, 1)
    odd = np.zeros((1, 4, 5, 1), np.uint8)
    with pytest.raises(ValueError, match=r"a size that divides images of 4x5. Received: 2"):
        image_data.ImageData(odd, np.zeros(1), odd, np.zeros(1), 2).averaged(2)


@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (32, 32, 3)], ids=str)
@pytest.mark.parametrize("name", ["lenet_300_100", "lenet_5", "small_convnet", "vgg11", "resnet20"])
def test_networks_take_the_images_of_every_data_set(name, shape):
    model = networks.build(name, shape, classes=3)
    assert model(np.zeros((2, *shape), np.float32)).shape == (2, 3)


def test_weights_follow_from_the_seed():
    first, same, other = (networks.build("resnet20", (32, 32, 3), 10, seed).get_weights() for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, same))
    assert any(not np.array_equal(a, b) for a, b in zip(first, other))
    assert not np.array_equal(first[5], first[10]), "layers of one shape must not share their weights"


def test_kaiming_normal_initialization():
    kernel = networks.build("vgg11", (32, 32, 3), 10).get_layer("block4_2_conv").kernel
    fan_in = 3 * 3 * 512
    np.testing.assert_allclose(np.std(kernel), math.sqrt(2 / fan_in), rtol=0.01)
    assert np.abs(kernel).max() > 3 * math.sqrt(2 / fan_in), "the distribution is not truncated"


def test_weight_decay_acts_as_in_pytorch():
    model = networks.build("lenet_300_100", (4, 4, 1), 2, weight_decay=0.5)
    with tf.GradientTape() as tape:
        penalty = sum(model.losses)
    for variable, gradient in zip(
        model.trainable_variables, tape.gradient(penalty, [v.value for v in model.trainable_variables])
    ):
        np.testing.assert_allclose(gradient, 0.5 * variable.numpy(), rtol=1e-6, err_msg=variable.path)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"vgg19.*Received: 'vgg18'"):
        networks.build("vgg18", (32, 32, 3), 10)
    with pytest.raises(ValueError, match=r"digits.*Received: 'imagenet'"):
        image_data.load("imagenet")


@pytest.fixture
def colours():
    """Nine 6x6 images of one colour each, with frames, as a data set with augmentation."""
    images = np.zeros((9, 6, 6, 3), np.uint8)
    images[:] = np.arange(1, 10, dtype=np.uint8)[:, None, None, None] * 20
    labels = np.arange(9)
    return image_data.ImageData(images, labels, images, labels, classes=9, augment=True)


def test_an_epoch_holds_every_image_once_in_another_order(colours):
    batches = list(colours.train_batches(4, seed=0, epochs=2))
    assert [len(y) for _, y in batches] == [4, 4, 1] * 2
    first, second = (np.concatenate([y for _, y in half]) for half in (batches[:3], batches[3:]))
    assert sorted(first) == sorted(second) == list(range(9))
    assert list(first) != list(second)


def test_later_epochs_are_the_same_wherever_one_starts(colours):
    whole = list(colours.train_batches(4, seed=3, epochs=3))[6:]
    rest = list(colours.train_batches(4, seed=3, first_epoch=2, epochs=3))
    assert len(whole) == len(rest) == 3
    for (x, y), (again_x, again_y) in zip(whole, rest):
        np.testing.assert_array_equal(x, again_x)
        np.testing.assert_array_equal(y, again_y)


def test_augmentation_shifts_by_up_to_four_pixels_and_mirrors():
    ramp = np.arange(1, 65, dtype=np.uint8).reshape(1, 8, 8, 1)
    images = np.repeat(ramp, 2000, axis=0)
    data = image_data.ImageData(images, np.zeros(2000, int), ramp, np.zeros(1, int), classes=1, augment=True)
    ((x, _),) = data.train_batches(2000, seed=0)
    pixels = np.rint(x * data.deviation + data.mean).astype(int)[..., 0]
    padded = np.pad(ramp[0, :, :, 0], 4)
    crops = {padded[i : i + 8, j : j + 8].tobytes(): False for i in range(9) for j in range(9)}
    crops |= {padded[i : i + 8, j : j + 8][:, ::-1].tobytes(): True for i in range(9) for j in range(9)}
    seen = [image.astype(np.uint8).tobytes() for image in pixels]
    assert set(seen) == set(crops), "every shift and its mirror image come up, and nothing else"
    mirrored = np.mean([crops[image] for image in seen])
    assert 0.45 < mirrored < 0.55, f"{mirrored:.0%} of the images are mirrored"


def test_digits_are_split_once_and_normalized():
    data = image_data.load("digits")
    assert (len(data.train_labels), len(data.test_labels)) == (1347, 450)
    assert data.input_shape == (8, 8, 1)
    x = np.concatenate([x for x, _ in data.train_batches(500, seed=0)])
    np.testing.assert_allclose([x.mean(), x.std()], [0, 1], atol=1e-4)


def test_a_data_set_that_cannot_be_got_is_explained(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    def download(*args, **kwargs):
        raise ConnectionError("no route to host")

    # Not sooner: what TensorFlow Datasets needs before a download must be installed.
    monkeypatch.setattr(tfds.download.DownloadManager, "download_and_extract", download)
    folder = str(tmp_path)
    with pytest.raises(OSError, match=rf"no route to host.*--data_dir.*Received: data_dir={folder!r}"):
        image_data.load("mnist", folder)


def test_learning_rate_falls_at_3_and_5_sevenths():
    model = networks.build("lenet_300_100", (2, 2, 1), 2)
    training.compile_model(model, 0.1, steps=70)
    rates = []
    for step in (0, 30, 31, 50, 51, 69):
        model.optimizer.iterations.assign(step)
        rates.append(float(model.optimizer.learning_rate))
    np.testing.assert_allclose(rates, [0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rtol=1e-6)
    assert model.optimizer.momentum == 0.9


def _fail_in_the_middle(folder):
    with folder.writing("settings.json") as aside:
        pathlib.Path(aside).write_text("half")
        raise RuntimeError


def test_a_failing_write_leaves_the_file_before(tmp_path):
    folder = run_folder.RunFolder(tmp_path, {"seed": 1})
    with pytest.raises(RuntimeError):
        _fail_in_the_middle(folder)
    assert folder.read_json("settings.json") == {"seed": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["settings.json"]


def test_a_folder_of_other_settings_is_refused(tmp_path):
    run_folder.RunFolder(tmp_path, {"seed": 1, "epochs": 5, "method": "snip"})
    run_folder.RunFolder(tmp_path, {"seed": 1, "epochs": 5, "method": "snip"})
    with pytest.raises(ValueError, match=r"--epochs=5.*Received: --epochs=6$"):
        run_folder.RunFolder(tmp_path, {"seed": 1, "epochs": 6, "method": "force"})


@pytest.mark.parametrize("method", ["granet_st", "ticket"])
def test_methods_that_benchmarks_compare(method, tmp_path):
    data, folder = image_data.load("digits", limit=96), str(tmp_path / "ticket")
    network = networks.build("lenet_300_100", data.input_shape, data.classes)

    def fit(model, callbacks=()):
        rows = training.train(
            model,
            data,
            learning_rate=0.1,
            batch_size=32,
            epochs=3,
            seed=0,
            callbacks=callbacks,
            whole_epochs=not callbacks,
        )
        return [1 - row["val_accuracy"] for row in rows]

    started = compared_methods.start(
        method, network, data, sparsity=0.6 if method == "granet_st" else 0.3, batch=32, seed=0, fit=fit, folder=folder
    )
    fit(started.model, started.callbacks)
    ended = started.facts | compared_methods.end(started.model, started.callbacks, data)
    total = 8 * 8 * 300 + 300 * 100 + 100 * 10
    assert (ended["kept"], ended["total"]) == (round((0.4 if method == "granet_st" else 0.7) * total), total)
    assert not ended["collapsed"]
    if method == "ticket":
        assert [density for density, _ in ended["rounds"]] == [1.0, 0.8]
        assert not (tmp_path / "ticket").exists(), "the rounds are kept until the ticket is found"


@pytest.mark.parametrize(("sparsity", "units"), [(0.9, [58, 19, 10]), (0.99, [7, 2, 10]), (0.999, [1, 1, 10])])
def test_a_small_dense_network_has_no_more_weights_than_masks_keep(sparsity, units):
    """By hand, of 64 · 300 + 300 · 100 + 100 · 10 = 50,200 weights; one unit in each layer has 75."""
    data = image_data.load("digits", limit=96)

    def scaled(width):
        return networks.build("lenet_300_100", data.input_shape, data.classes, width=width)

    network = scaled(1.0)
    started = compared_methods.start("small_dense", network, data, sparsity=sparsity, batch=32, seed=0, scaled=scaled)
    assert [layer.units for layer in started.model.layers if hasattr(layer, "units")] == units
    kept = 64 * units[0] + units[0] * units[1] + units[1] * 10
    assert (started.facts["kept"], started.facts["total"]) == (kept, 50_200)


LISTS = {
    "names": (lambda flag: list_flags.check_names(flag, ("snip", "force")), "snip,force", "snip,forse", "snip, force"),
    "fractions": (list_flags.check_fractions, "0,0.9", "0.9,1", "in \\[0, 1\\)"),
    "counts": (list_flags.check_counts, "1,20", "20,2.5", "whole numbers of at least 1"),
    "limits": (lambda flag: list_flags.check_limits(flag, ("flops",)), "flops=0.25", "flops=-1", "flops=NUMBER"),
    "positive": (list_flags.check_positive, "0.5,20", "1,nan", "positive numbers"),
}


@pytest.mark.parametrize("kind", list(LISTS))
def test_a_wrong_entry_of_a_list_gets_a_sentence(kind):
    check, right, wrong, message = LISTS[kind]
    name = f"test_list_of_{kind}"
    flags.DEFINE_list(name, None, "A list.")
    check(name)
    with flagsaver.flagsaver():
        flags.FLAGS(["script", f"--{name}={right}"])
        assert flags.FLAGS[name].value == right.split(",")
        with pytest.raises(flags.IllegalFlagValueError, match=f"{name}=.*expected.*{message}"):
            flags.FLAGS(["script", f"--{name}={wrong}"])


def test_every_list_flag_is_checked():
    for path in (*(ROOT / "examples").glob("*.py"), *(ROOT / "benchmarks").glob("*.py")):
        source = path.read_text()
        lists = set(re.findall(r'DEFINE_list\(\s*"(\w+)"', source))
        assert lists <= set(re.findall(r'check_\w+\("(\w+)"', source)), path.name


def test_compared_methods_prune_the_layers_that_they_are_given():
    data = image_data.load("digits", limit=96)
    network = networks.build("lenet_300_100", data.input_shape, data.classes)
    for method, kept in (("gmp", 30_000), ("random", 12_000)):
        started = compared_methods.start(method, network, data, sparsity=0.6, batch=32, seed=0, layers=["dense_2"])
        masks = force_tf.get_masks(started.model)
        assert (list(masks), masks.kept) == (["dense_2/kernel"], kept), method
