"""`Masks`: which weights of a model are kept, as a validated, immutable value."""

from __future__ import annotations

import functools
import json
import math
import os
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from force_tf.support.arguments import integer
from force_tf.support.automatic_names import ADVICE, first_renumbered
from force_tf.support.files import atomic_file
from force_tf.support.tables import aligned

_FORMAT = "force_tf.masks"
_FORMAT_VERSION = 1
_HEADER = "header"
_FEW = 4  # so many that are left out for one reason are all listed
# What the metadata tell of the masks of a search, and not of others.
_MEASURED = ("effective_sparsity", "budget")
# What a file may unpack to, in bytes and weights: far above any network that Keras trains on one machine.
_LARGEST_HEADER, _LARGEST_ARRAY_HEADER, _MOST_WEIGHTS = 2**26, 2**12, 2**34


class Masks(Mapping[str, np.ndarray]):
    """An immutable mapping from a weight's path to a boolean array, in model order.

    `True` marks a weight that is kept, `False` one that is pruned. A path is `layer/attribute` with outer models and
    sub-layers before it, such as `conv1/kernel`, `backbone/conv1/kernel` or `lstm/lstm_cell/recurrent_kernel`.

    Args:
        masks: Mapping from a path to an array of booleans (or of the numbers 0 and 1) of the weight's shape. The arrays
            are copied; the order of the mapping is the order of the masks.
        left_out: Mapping from the path of a layer or weight that is not pruned to the reason, for `summary()`.
        metadata: JSON-serializable facts about the search: method, sparsity, steps, seed, versions, …

    Raises:
        TypeError: If `masks` is no mapping, or an entry is neither boolean nor made of zeros and ones.
        ValueError: If `masks` is empty, or `metadata` cannot be written as JSON.

    Example:

    >>> masks = Masks({"dense/kernel": np.array([[True, False], [False, False]])})
    >>> masks.kept, masks.total, masks.sparsity
    (1, 4, 0.75)
    """

    def __init__(
        self,
        masks: Mapping[str, Any],
        *,
        left_out: Mapping[str, str] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ):
        if not isinstance(masks, Mapping):
            raise TypeError(f"Expected `masks` to map weight paths to boolean arrays. Received: {masks!r}")
        if not masks:
            raise ValueError("Expected masks for at least one weight. Received: an empty mapping.")
        self._masks = {str(path): _as_mask(path, mask) for path, mask in masks.items()}
        self._left_out = dict(left_out or {})
        try:
            # A round trip also detaches the metadata from the caller's mutable objects.
            self._metadata = json.loads(json.dumps(dict(metadata or {})))
        except (TypeError, ValueError) as error:
            raise ValueError(f"Expected metadata that JSON can hold ({error}). Received: {metadata!r}") from None

    def __getitem__(self, path: str) -> np.ndarray:
        try:
            return self._masks[path]
        except KeyError:
            raise KeyError(f"No mask for {path!r}. The masks are for: {', '.join(self._masks)}.") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._masks)

    def __len__(self) -> int:
        return len(self._masks)

    def __contains__(self, path: object) -> bool:
        return path in self._masks

    def __eq__(self, other: object) -> bool:
        """True if the same weights of the same paths are kept; order, metadata and reasons do not count."""
        if not isinstance(other, Mapping):
            return NotImplemented
        return self.keys() == other.keys() and all(np.array_equal(self[path], other[path]) for path in self)

    __hash__ = None

    def __reduce__(self):
        # Through the constructor, since arrays lose their write protection when they are copied or pickled.
        return functools.partial(Masks, left_out=self._left_out, metadata=self._metadata), (self._masks,)

    def __repr__(self) -> str:
        method = self._metadata.get("method")
        return (
            f"<Masks{f' by {method}' if method else ''}: {self.kept:,} of {self.total:,} weights kept "
            f"({self.sparsity:.2%} sparsity) in {len(self)} tensors>"
        )

    @property
    def kept(self) -> int:
        """The number of weights that are kept."""
        return sum(int(np.count_nonzero(mask)) for mask in self._masks.values())

    @property
    def total(self) -> int:
        """The number of weights, kept or pruned."""
        return sum(mask.size for mask in self._masks.values())

    @property
    def sparsity(self) -> float:
        """The fraction of the weights that is pruned, in [0, 1]."""
        return 1.0 - self.density()

    def density(self, path: str | None = None) -> float:
        """Returns the fraction of kept weights, of the tensor at `path` or (None) of all tensors together.

        It is 1 where there are no weights, since none is pruned.
        """
        kept, total = (self.kept, self.total) if path is None else (np.count_nonzero(self[path]), self[path].size)
        return kept / total if total else 1.0

    def effective_sparsity(self, model: Any) -> float:
        """Returns the fraction of the weights that are pruned or do nothing, since they lie on no live path.

        A weight is on a live path if an input reaches an output through it and through weights that are kept. Networks
        that are pruned to few weights keep many that read dead channels, or feed channels that nothing reads.

        Args:
            model: The built model of either Keras that the masks are for, with or without them. It comes back as it
                was.

        Returns:
            A number in [`sparsity`, 1].

        Raises:
            TypeError: If `model` is not a Keras model.
            ValueError: If the masks do not fit it, or its paths cannot be followed by gradients.

        References:
            - [Towards Strong Pruning for Neural Networks: Effective Sparsity](https://arxiv.org/abs/2107.02306)
        """
        from force_tf.models import live_paths  # which loads TensorFlow
        from force_tf.models.keras_models import check_model
        from force_tf.models.prunable import all_prunable_weights

        check_model(model)
        plain = live_paths.plain_model(model)
        weights = [weight for weight in all_prunable_weights(plain) if weight.path in self]
        difference = self.first_difference({weight.path: weight.shape for weight in weights})
        if difference:
            raise ValueError(f"Expected masks for the weights of {model.name!r}. Received: {difference}")
        live = live_paths.count_live(plain, weights, [self[weight.path] for weight in weights])
        return 1.0 - live / self.total if self.total else 0.0

    @property
    def left_out(self) -> Mapping[str, str]:
        """Maps each layer or weight that is not pruned to the reason."""
        return types.MappingProxyType(self._left_out)

    @property
    def metadata(self) -> dict[str, Any]:
        """A copy of the facts about the search that made these masks."""
        return json.loads(json.dumps(self._metadata))

    def replace(self, masks: Mapping[str, Any]) -> Masks:
        """Returns masks with other arrays under the same reasons and metadata, but for what was measured of these."""
        return Masks(masks, left_out=self._left_out, metadata=self._settings())

    def _settings(self) -> dict[str, Any]:
        return {key: value for key, value in self._metadata.items() if key not in _MEASURED}

    def shuffled(self, seed: int | None = None) -> Masks:
        """Returns masks that keep as many weights of every tensor, but others, drawn at random.

        A sanity check of pruning at initialization: if networks train as well with them, the method has found how many
        weights each layer needs, and no more. Single weights are drawn, so that blocks, patterns and channels are lost.

        Args:
            seed: Draws the weights; None for others every time.

        Returns:
            Masks whose metadata say "shuffled", with the seed.

        References:
            - [Pruning Neural Networks at Initialization: Why Are We Missing the
              Mark?](https://arxiv.org/abs/2009.08576)

        Example:

        >>> masks = Masks({"dense/kernel": np.array([[True, True], [False, False]])})
        >>> masks.shuffled(seed=0).kept
        2
        """
        seed = None if seed is None else integer("seed", seed, minimum=0)
        random = np.random.default_rng(seed)
        shuffled = {path: random.permuted(mask, axis=None) for path, mask in self._masks.items()}
        return Masks(shuffled, left_out=self._left_out, metadata={**self._settings(), "shuffled": {"seed": seed}})

    def summary(self, print_fn: Callable[[str], Any] = print, *, full: bool = False) -> None:
        """Prints a table of shape, weights, kept weights and density per tensor, then what is left out and why.

        Args:
            print_fn: Called once with the whole text. Defaults to `print`.
            full: Whether to list everything that is left out, where many are for the same reason.
        """
        print_fn(self.to_table(full=full))

    def to_table(self, *, full: bool = False) -> str:
        """Returns the text that `summary()` prints.

        Args:
            full: As in `summary`.
        """
        head = ("Weight", "Shape", "Weights", "Kept", "Density")
        rows = [
            (path, str(mask.shape), f"{mask.size:,}", f"{np.count_nonzero(mask):,}", f"{self.density(path):.4%}")
            for path, mask in self._masks.items()
        ]
        rows.append(("Total", "", f"{self.total:,}", f"{self.kept:,}", f"{self.density():.4%}"))
        table = aligned([head, *rows], "<<>>>").splitlines()
        rule = "-" * len(table[0])
        lines = [repr(self)[1:-1], rule, table[0], rule, *table[1:-1], rule, table[-1]]
        if self._left_out:
            rows = list(self._left_out.items() if full else _shortened(self._left_out))
            lines += ["", "Left out:", aligned([(f"  {path}", reason) for path, reason in rows], "<<")]
            if len(rows) < len(self._left_out):
                lines.append("  `summary(full=True)` lists them all.")
        return "\n".join([*lines, *self._measured_lines()])

    def _measured_lines(self) -> list[str]:
        lines: list[str] = []
        for name, cost in self._metadata.get("budget", {}).items():
            line = f"{name}: {cost['result']:,} of at most {cost['budget']:,}; dense: {cost['dense']:,}"
            lines += [line] if lines else ["", "Budget:", line]
        effective = self._metadata.get("effective_sparsity")
        if effective is not None:
            live = round((1 - effective) * self.total)
            lines += ["", f"Effective sparsity: {effective:.4%} ({live:,} of {self.kept:,} kept weights on live paths)"]
        return lines

    def first_difference(
        self, shapes: Mapping[str, tuple[int, ...]], optional: Mapping[str, tuple[int, ...]] | None = None
    ) -> str | None:
        """Says where these masks first differ from a model's prunable weights.

        Args:
            shapes: The model's prunable weights: path to shape. A path that the masks left out on purpose may be there.
            optional: Weights of the model that need no mask, for a hint at names that Keras made.

        Returns:
            One sentence that names the first misshapen, missing or unknown entry, or None if the masks fit.
        """
        difference = self._first_difference(shapes)
        renumbered = first_renumbered(shapes, _shapes(self), optional, self._left_out) if difference else None
        if renumbered:
            mine, theirs = renumbered
            return f"the model has {mine!r} where there is a mask for {theirs!r}. {ADVICE}."
        return difference

    def _first_difference(self, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
        for path, shape in shapes.items():
            if path in self:
                if self[path].shape != tuple(shape):
                    return f"{path!r} has shape {tuple(shape)} in the model, but its mask has shape {self[path].shape}."
            elif path not in self._left_out:
                return f"{path!r} is a prunable weight of the model, but has no mask (add one, all True, to keep it)."
        for path in self:
            if path not in shapes:
                return f"there is a mask for {path!r}, but the model has no such prunable weight."
        return None

    # Set operations over the kept weights.

    def _combine(self, other: Mapping[str, Any], operation) -> Masks:
        if not isinstance(other, Mapping):
            return NotImplemented
        other = other if isinstance(other, Masks) else Masks(other)
        self._check_comparable(other)
        return Masks(
            {path: operation(mask, other[path]) for path, mask in self._masks.items()}, left_out=self._left_out
        )

    def _check_comparable(self, other: Masks) -> None:
        for path in dict.fromkeys((*self, *other)):
            mine, theirs = (str(masks[path].shape) if path in masks else "none" for masks in (self, other))
            if mine == theirs:
                continue
            renumbered = first_renumbered(_shapes(self), _shapes(other))
            if renumbered:
                raise ValueError(
                    f"Expected masks for the same weights. {ADVICE}. "
                    f"Received: masks for {renumbered[0]!r} and {renumbered[1]!r}"
                )
            raise ValueError(
                "Expected masks for the same weights. "
                f"Received: masks of different shapes for {path!r}, {mine} and {theirs}"
            )

    def __and__(self, other: Mapping[str, Any]) -> Masks:
        """Weights kept by both."""
        return self._combine(other, np.logical_and)

    def __or__(self, other: Mapping[str, Any]) -> Masks:
        """Weights kept by either."""
        return self._combine(other, np.logical_or)

    def __xor__(self, other: Mapping[str, Any]) -> Masks:
        """Weights kept by exactly one."""
        return self._combine(other, np.logical_xor)

    def __sub__(self, other: Mapping[str, Any]) -> Masks:
        """Weights kept by these masks and pruned by the others."""
        return self._combine(other, lambda a, b: a & ~b)

    def __invert__(self) -> Masks:
        """Weights that these masks prune."""
        return Masks({path: ~mask for path, mask in self._masks.items()}, left_out=self._left_out)

    def intersection_over_union(self, other: Mapping[str, Any]) -> float:
        """Returns |A ∩ B| / |A ∪ B| over the kept weights, in [0, 1]; 1 if neither keeps any."""
        union = (self | other).kept
        return (self & other).kept / union if union else 1.0

    # Files.

    def save(self, path: str | os.PathLike) -> None:
        """Writes the masks as packed bits, compressed, without pickle.

        The file appears whole or not at all: it is written beside its place and then renamed.

        Args:
            path: The file to write. The name is taken as it is; `.npz` is customary.

        Raises:
            OSError: If the folder is missing or cannot be written.
        """
        header = {
            "format": _FORMAT,
            "version": _FORMAT_VERSION,
            "tensors": [[path, list(mask.shape)] for path, mask in self._masks.items()],
            "left_out": dict(self._left_out),
            "metadata": self._metadata,
        }
        arrays = {f"bits_{i}": np.packbits(mask, axis=None) for i, mask in enumerate(self._masks.values())}
        with atomic_file(path) as file:
            np.savez_compressed(file, **{_HEADER: np.array(json.dumps(header))}, **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Masks:
        """Reads masks that `save` wrote.

        Args:
            path: The file to read.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is no mask file, is damaged, or was written by a newer version.
        """
        path = os.fspath(path)
        if not os.path.exists(path):
            raise FileNotFoundError(f"Expected a file written by Masks.save. Received: {path!r}, which does not exist")
        try:
            # NumPy leaves a damaged file open that it opened itself.
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
                return cls._from_arrays(arrays, {info.filename: info.file_size for info in arrays.zip.infolist()})
        except _ForeignFormatError as error:
            reason = str(error)
        except OSError as error:
            reason = error.strerror or "unreadable"
        except Exception:  # a damaged archive fails in many ways, and NumPy's messages would not help
            reason = "damaged, or of another kind"
        raise ValueError(f"Expected an intact file written by Masks.save. Received: {path!r} ({reason})")

    @classmethod
    def _from_arrays(cls, arrays: Mapping[str, np.ndarray], sizes: Mapping[str, int]) -> Masks:
        # Sizes first: a small archive may unpack to more than the memory holds.
        if sizes[f"{_HEADER}.npy"] > _LARGEST_HEADER:
            raise _ForeignFormatError(f"with a header of {sizes[f'{_HEADER}.npy']:,} bytes")
        header = json.loads(str(arrays[_HEADER]))
        if header["format"] != _FORMAT:
            raise _ForeignFormatError(f"of the format {header['format']!r}")
        if header["version"] != _FORMAT_VERSION:
            raise _ForeignFormatError(
                f"of format version {header['version']}, while this release reads {_FORMAT_VERSION}"
            )
        _check_header(header, sizes)
        masks = {path: _unpack(arrays[f"bits_{i}"], tuple(shape)) for i, (path, shape) in enumerate(header["tensors"])}
        return cls(masks, left_out=header["left_out"], metadata=header["metadata"])


class _ForeignFormatError(Exception):
    """A mask file that this release cannot read."""


def _shapes(masks: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    return {path: mask.shape for path, mask in masks.items()}


def _shortened(left_out: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yields what is left out and why; of many for the same reason the first, and how many more there are."""
    by_reason: dict[str, list[str]] = {}
    for path, reason in left_out.items():
        by_reason.setdefault(reason, []).append(path)
    for path, reason in left_out.items():
        alike = by_reason[reason]
        if len(alike) <= _FEW or path == alike[0]:
            yield path, reason
        if len(alike) > _FEW and path == alike[0]:
            yield f"and {len(alike) - 1} more", reason


def _as_mask(path: str, mask: Any) -> np.ndarray:
    try:
        array = np.array(mask)
    except ValueError:
        raise TypeError(f"Expected the mask of {path!r} to be an array of booleans. Received: {mask!r}") from None
    if array.dtype != bool:
        if array.dtype.kind not in "iuf":
            raise TypeError(f"Expected the mask of {path!r} to hold booleans. Received: dtype {array.dtype}")
        strange = array[~np.isin(array, (0, 1))]
        if strange.size:
            raise TypeError(
                f"Expected the mask of {path!r} to hold booleans, or zeros and ones. Received: {strange[0]}"
            )
        array = array.astype(bool)
    array.setflags(write=False)
    return array


def _check_header(header: Mapping[str, Any], sizes: Mapping[str, int]) -> None:
    """Refuses a header that contradicts itself or what the archive says of the sizes of its arrays."""
    seen = set()
    for i, (path, shape) in enumerate(header["tensors"]):
        if not isinstance(path, str) or not all(type(size) is int and size >= 0 for size in shape):
            raise _ForeignFormatError(f"with the shape {shape!r} for {path!r}")
        if path in seen:
            raise _ForeignFormatError(f"with two masks for {path!r}")
        seen.add(path)
        expected = (math.prod(shape) + 7) // 8
        if not expected <= sizes[f"bits_{i}.npy"] <= expected + _LARGEST_ARRAY_HEADER:
            raise _ForeignFormatError(f"with {sizes[f'bits_{i}.npy']:,} bytes for {path!r} of shape {tuple(shape)}")
    weights = sum(math.prod(shape) for _, shape in header["tensors"])
    if weights > _MOST_WEIGHTS:
        raise _ForeignFormatError(f"with masks of {weights:,} weights, more than {_MOST_WEIGHTS:,}")
    reasons = header["left_out"]
    if not all(isinstance(text, str) for text in (*reasons.keys(), *reasons.values())):
        raise _ForeignFormatError(f"with {reasons!r} as left out")


def _unpack(bits: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    size = int(np.prod(shape, dtype=np.int64))
    if bits.dtype != np.uint8 or bits.size != (size + 7) // 8:
        raise ValueError(f"a mask of shape {shape} with {bits.size} bytes")
    return np.unpackbits(bits, count=size).astype(bool).reshape(shape)
