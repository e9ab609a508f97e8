"""Image data sets, held in memory, and the batches to train and test on.

Nothing depends on how often a data set has been read: the order and the augmentation of every epoch follow from the
seed and the number of the epoch alone, so that a training that was interrupted goes on exactly as it would have.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import tensorflow as tf

NAMES = ("digits", "mnist", "cifar10", "cifar100")
_AUGMENTED = ("cifar10", "cifar100")
_CROP_MARGIN = 4  # pixels


@dataclasses.dataclass(frozen=True)
class ImageData:
    """A data set of images of one size.

    Attributes:
        train_images: uint8, of shape (images, height, width, channels).
        train_labels: int64, of shape (images,).
        test_images: Like `train_images`.
        test_labels: Like `train_labels`.
        classes: Number of classes.
        augment: Whether training images are cropped and flipped at random.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    classes: int
    augment: bool = False

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return self.train_images.shape[1:]

    @functools.cached_property
    def mean(self) -> np.ndarray:
        """Mean of the training images per channel, float32 of shape (channels,)."""
        return self.train_images.mean(axis=(0, 1, 2), dtype=np.float64).astype(np.float32)

    @functools.cached_property
    def deviation(self) -> np.ndarray:
        """Standard deviation of the training images per channel, float32 of shape (channels,)."""
        return self.train_images.std(axis=(0, 1, 2), dtype=np.float64).astype(np.float32)

    def normalize(self, images):
        """Returns images, NumPy's or TensorFlow's, as float32 with mean 0 and deviation 1 over the training set."""
        return (tf.cast(images, tf.float32) - self.mean) / self.deviation

    def averaged(self, size: int) -> ImageData:
        """Returns the images averaged over windows, down to about `size` pixels, for a training without augmentation.

        Args:
            size: Height and width wanted. Smaller images stay as they are.

        Raises:
            ValueError: If windows do not fill the images.
        """

        def smaller(images: np.ndarray) -> np.ndarray:
            count, height, width, channels = images.shape
            rows, columns = max(1, height // size), max(1, width // size)
            if height % rows or width % columns:
                raise ValueError(f"Expected a size that divides images of {height}x{width}. Received: {size}")
            windows = images.reshape(count, height // rows, rows, width // columns, columns, channels)
            return windows.mean((2, 4)).astype(np.uint8)

        found = smaller(self.train_images), self.train_labels, smaller(self.test_images), self.test_labels
        return ImageData(*found, self.classes)

    def steps_per_epoch(self, batch_size: int) -> int:
        """Returns the number of training batches in an epoch."""
        return -(-len(self.train_labels) // batch_size)

    def train_batches(self, batch_size: int, seed: int, first_epoch: int = 0, epochs: int = 1) -> tf.data.Dataset:
        """Returns the shuffled, augmented and normalized batches of the epochs `first_epoch`, …, `epochs` - 1.

        Args:
            batch_size: Images in a batch; the last one of an epoch may be smaller.
            seed: Seed of the order and the augmentation.
            first_epoch: Number of the first epoch, from 0.
            epochs: Number of epochs, those before `first_epoch` included.

        Returns:
            A dataset of (images, labels): float32 of shape (batch, height, width, channels), int64 of shape (batch,).
        """
        # As tensors, the images are shared with the dataset's graph; as arrays, the graph would hold a copy.
        images, labels = tf.constant(self.train_images), tf.constant(self.train_labels)

        def batch(indices: tf.Tensor, epoch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            x = tf.gather(images, indices)
            if self.augment:
                # An image comes once in an epoch, so that the first one tells the epoch's batches apart.
                x = _crop_and_flip(x, tf.stack([seed * 1_000_003 + epoch, indices[0]]))
            return self.normalize(x), tf.gather(labels, indices)

        def batches_of(epoch: tf.Tensor) -> tf.data.Dataset:
            indices = tf.range(len(self.train_labels), dtype=tf.int64)
            order = tf.random.experimental.stateless_shuffle(indices, seed=tf.stack([seed, epoch]))
            # Whole batches are gathered at once: a dataset of single images takes several times as long.
            return tf.data.Dataset.from_tensor_slices(order).batch(batch_size).map(lambda i: batch(i, epoch))

        return tf.data.Dataset.range(first_epoch, epochs).flat_map(batches_of).prefetch(tf.data.AUTOTUNE)

    def test_batches(self, batch_size: int = 1000) -> tf.data.Dataset:
        """Returns the normalized test images and their labels, in order."""
        images = self.normalize(self.test_images)
        return tf.data.Dataset.from_tensor_slices((images, self.test_labels)).batch(batch_size)


def load(name: str, data_dir: str | None = None, limit: int | None = None) -> ImageData:
    """Loads a data set into memory.

    Args:
        name: One of `NAMES`. "digits" comes with scikit-learn, the others through TensorFlow Datasets.
        data_dir: Where TensorFlow Datasets keeps its data, or puts it after downloading. None: its own default.
        limit: Keep only so many training and so many test images, to try things out.

    Raises:
        ImportError: If the package that provides the data is not installed.
        OSError: If the data set is not there and cannot be downloaded.
        ValueError: If there is no data set of that name.
    """
    if name not in NAMES:
        raise ValueError(f"Expected one of the data sets {', '.join(NAMES)}. Received: {name!r}")
    try:
        arrays = _load_digits() if name == "digits" else _load_tfds(name, data_dir)
    except ImportError as error:
        raise ImportError(
            "Expected the packages that the examples need; install them with `pip install 'force_tf[examples]'`. "
            f"Received: {error}"
        ) from None
    classes = int(arrays[1].max()) + 1
    return ImageData(*(array[:limit] for array in arrays), classes=classes, augment=name in _AUGMENTED)


def _load_digits() -> tuple[np.ndarray, ...]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8, 1).astype(np.uint8)
    # One fixed split, whatever the seed, so that all runs are tested on the same images.
    train_x, test_x, train_y, test_y = train_test_split(
        images, labels.astype(np.int64), test_size=0.25, stratify=labels, random_state=0
    )
    return train_x, train_y, test_x, test_y


def _load_tfds(name: str, data_dir: str | None) -> tuple[np.ndarray, ...]:
    import tensorflow_datasets as tfds

    try:
        train, test = tfds.load(name, split=["train", "test"], data_dir=data_dir, batch_size=-1, as_supervised=True)
    except Exception as error:  # no route, a bad checksum, a full disk: each has its own type
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise OSError(
            f"Expected {name} in the folder of TensorFlow Datasets, or a network to download it from ({reason}); give "
            f"the folder of a copy with --data_dir. Received: data_dir={data_dir!r}"
        ) from None
    return tuple(array for images, labels in tfds.as_numpy([train, test]) for array in (images, labels))


def _crop_and_flip(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Shifts every image by up to four pixels, with zeros around it, and mirrors every other one on average."""
    count, height, width = tf.shape(images)[0], images.shape[1], images.shape[2]
    margin = [_CROP_MARGIN, _CROP_MARGIN]
    padded = tf.pad(images, [[0, 0], margin, margin, [0, 0]])
    draws = tf.random.stateless_uniform([3, count, 1], seed, maxval=2 * _CROP_MARGIN + 1, dtype=tf.int32)
    columns = draws[1] + tf.range(width)
    flip = tf.random.stateless_uniform([count, 1], seed + 1, maxval=2, dtype=tf.int32)
    columns = tf.where(flip == 1, columns[:, ::-1], columns)
    rows_cut = tf.gather(padded, draws[0] + tf.range(height), axis=1, batch_dims=1)
    return tf.gather(rows_cut, columns, axis=2, batch_dims=1)
