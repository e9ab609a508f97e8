"""`Masks` as a value: a mapping that never changes, its numbers, and its set operations."""

import copy
import pickle

import numpy as np
import pytest

from force_tf import Masks

A = {"conv/kernel": [[True, False], [True, True]], "dense/kernel": [False, True, False, False]}
B = {"conv/kernel": [[True, True], [False, True]], "dense/kernel": [False, True, True, False]}


def test_it_is_a_mapping_in_the_order_given():
    masks = Masks({"b": [True], "a": [False, True]})
    assert list(masks) == ["b", "a"]
    assert len(masks) == 2
    assert [mask.shape for mask in masks.values()] == [(1,), (2,)]
    assert "a" in masks
    assert "c" not in masks
    assert masks.get("c") is None
    assert dict(masks).keys() == {"a", "b"}


def test_a_missing_path_is_named_beside_those_that_are_there():
    with pytest.raises(KeyError, match=r"'conv2/kernel'.*conv/kernel, dense/kernel"):
        Masks(A)["conv2/kernel"]


def test_arrays_are_copied_and_cannot_be_written():
    source = np.array([True, False])
    masks = Masks({"a": source})
    source[1] = True
    assert masks["a"].tolist() == [True, False]
    with pytest.raises(ValueError, match="read-only"):
        masks["a"][1] = True
    with pytest.raises(TypeError):
        masks["a"] = source


def test_metadata_and_reasons_are_detached_from_the_callers_objects():
    metadata, left_out = {"seeds": [1]}, {"embedding": "opt-in"}
    masks = Masks(A, metadata=metadata, left_out=left_out)
    metadata["seeds"].append(2)
    left_out["bn"] = "late"
    masks.metadata["seeds"].append(3)
    assert masks.metadata == {"seeds": [1]}
    assert masks.left_out == {"embedding": "opt-in"}
    with pytest.raises(TypeError):
        masks.left_out["bn"] = "late"


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_are_equal_and_as_immutable(duplicate):
    masks = Masks(A, metadata={"method": "snip"}, left_out={"bn": "no kernel"})
    other = duplicate(masks)
    assert other == masks
    assert (other.metadata, other.left_out) == (masks.metadata, masks.left_out)
    with pytest.raises(ValueError, match="read-only"):
        other["dense/kernel"][0] = True


def test_equality_is_about_the_weights_kept_alone():
    masks = Masks(A, metadata={"seed": 1})
    assert masks == Masks(dict(reversed(A.items())), metadata={"seed": 2})
    assert masks == {path: np.array(mask) for path, mask in A.items()}
    assert masks != Masks(B)
    assert masks != Masks({"conv/kernel": A["conv/kernel"]})
    assert masks != Masks({**A, "dense/kernel": [[False, True], [False, False]]}), "another shape"
    assert masks != "masks"
    with pytest.raises(TypeError, match="unhashable"):
        hash(masks)


def test_numbers_add_up():
    masks = Masks(A)
    assert (masks.kept, masks.total) == (4, 8)
    assert (masks.sparsity, masks.density()) == (0.5, 0.5)
    assert [masks.density(path) for path in masks] == [0.75, 0.25]
    assert isinstance(masks.kept, int)
    assert isinstance(masks.density("conv/kernel"), float)


def test_a_tensor_without_weights_counts_as_kept():
    masks = Masks({"empty": np.zeros((0, 3), bool)})
    assert (masks.kept, masks.total, masks.sparsity, masks.density("empty")) == (0, 0, 0.0, 1.0)
    assert "100.0000%" in masks.to_table()


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32])
def test_zeros_and_ones_of_any_type_are_booleans(dtype):
    mask = Masks({"a": np.array([1, 0, 1], dtype)})["a"]
    assert mask.dtype == bool
    assert mask.tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("masks", "error", "received"),
    [
        ([("a", [True])], TypeError, r"\[\('a', \[True\]\)\]"),
        (None, TypeError, "None"),
        ({}, ValueError, "an empty mapping"),
        ({"a": [0, 2]}, TypeError, "2"),
        ({"a": [0.5, 1.0]}, TypeError, "0.5"),
        ({"a": [float("nan"), 1.0]}, TypeError, "nan"),
        ({"a": ["yes"]}, TypeError, "dtype <U3"),
        ({"a": [[True], [True, False]]}, TypeError, r"\[\[True\], \[True, False\]\]"),
        ({"a": None}, TypeError, "dtype object"),
    ],
)
def test_what_is_no_mask_is_refused(masks, error, received):
    with pytest.raises(error, match=rf"^Expected .*Received: {received}\.?$"):
        Masks(masks)


def test_metadata_must_fit_into_json():
    with pytest.raises(ValueError, match=r"^Expected metadata that JSON can hold .* Received: \{'model': <object"):
        Masks(A, metadata={"model": object()})


def test_replace_keeps_reasons_and_metadata():
    masks = Masks(A, metadata={"method": "snip"}, left_out={"bn": "no kernel"}).replace(B)
    assert masks == Masks(B)
    assert (masks.metadata, dict(masks.left_out)) == ({"method": "snip"}, {"bn": "no kernel"})


def test_summary_tells_every_tensor_and_what_is_left_out():
    masks = Masks(
        {"conv/kernel": np.ones((3, 3, 8, 16), bool), "dense/kernel": np.arange(2000).reshape(1000, 2) < 500},
        left_out={"embedding/embeddings": "not pruned by default", "bn": "BatchNormalization has no prunable weights"},
        metadata={"method": "force"},
    )
    printed = []
    masks.summary(print_fn=printed.append)
    assert len(printed) == 1, "print_fn is called once"
    lines = [line.split() for line in printed[0].splitlines()]
    assert ["conv/kernel", "(3,", "3,", "8,", "16)", "1,152", "1,152", "100.0000%"] in lines
    assert ["dense/kernel", "(1000,", "2)", "2,000", "500", "25.0000%"] in lines
    assert ["Total", "3,152", "1,652", "52.4112%"] in lines
    assert "embedding/embeddings  not pruned by default" in printed[0]
    assert "bn                    BatchNormalization has no prunable weights" in printed[0]
    assert "by force: 1,652 of 3,152 weights kept (47.59% sparsity) in 2 tensors" in printed[0]


def test_summary_is_short_where_many_are_left_out_for_one_reason():
    norms = {f"bn_{index}": "no weights to prune" for index in range(30)}
    masks = Masks(A, left_out={"embedding": "not selected", **norms, "head": "frozen"})
    short, whole = masks.to_table().splitlines(), masks.to_table(full=True).splitlines()
    left = [line.split(maxsplit=1) for line in short[short.index("Left out:") + 1 :]]
    assert left == [
        ["embedding", "not selected"],
        ["bn_0", "no weights to prune"],
        ["and", "29 more  no weights to prune"],
        ["head", "frozen"],
        ["`summary(full=True)`", "lists them all."],
    ]
    assert len([line for line in whole if line.startswith("  ")]) == 32


def test_summary_prints_by_default(capsys):
    Masks(A).summary()
    assert capsys.readouterr().out.count("dense/kernel") == 1


@pytest.mark.parametrize(
    ("operation", "conv", "dense"),
    [
        (lambda a, b: a & b, [[1, 0], [0, 1]], [0, 1, 0, 0]),
        (lambda a, b: a | b, [[1, 1], [1, 1]], [0, 1, 1, 0]),
        (lambda a, b: a ^ b, [[0, 1], [1, 0]], [0, 0, 1, 0]),
        (lambda a, b: a - b, [[0, 0], [1, 0]], [0, 0, 0, 0]),
        (lambda a, b: ~a, [[0, 1], [0, 0]], [1, 0, 1, 1]),
    ],
    ids=["and", "or", "xor", "minus", "not"],
)
def test_set_operations_are_about_the_weights_kept(operation, conv, dense):
    expected = Masks({"conv/kernel": conv, "dense/kernel": dense})
    assert operation(Masks(A), Masks(B)) == expected
    assert operation(Masks(A), B) == expected, "a plain mapping will do"


def test_intersection_over_union_by_hand():
    # Both keep conv[0,0], conv[1,1], dense[1]; together they keep these and conv[0,1], conv[1,0], dense[2].
    assert Masks(A).intersection_over_union(Masks(B)) == 0.5
    assert Masks(A).intersection_over_union(A) == 1.0
    assert Masks(A).intersection_over_union(~Masks(A)) == 0.0
    nothing = Masks({"a": [False, False]})
    assert nothing.intersection_over_union(nothing) == 1.0


@pytest.mark.parametrize(
    ("other", "received"),
    [
        ({**A, "dense/kernel": [True]}, r"for 'dense/kernel', \(4,\) and \(1,\)"),
        ({"conv/kernel": A["conv/kernel"]}, r"for 'dense/kernel', \(4,\) and none"),
        ({**A, "extra": [True]}, r"for 'extra', none and \(1,\)"),
    ],
)
def test_masks_of_different_models_do_not_combine(other, received):
    with pytest.raises(ValueError, match=rf"^Expected masks for the same weights\. Received: .*{received}$"):
        Masks(A) & Masks(other)
    with pytest.raises(ValueError, match=received):
        Masks(A).intersection_over_union(other)


def test_masks_do_not_combine_with_numbers():
    with pytest.raises(TypeError, match="unsupported operand"):
        Masks(A) & 1


def test_first_difference_names_misshapen_missing_and_unknown_entries():
    masks = Masks(A, left_out={"embedding/embeddings": "not pruned by default"})
    shapes = {"conv/kernel": (2, 2), "dense/kernel": (4,)}
    assert masks.first_difference(shapes) is None
    assert masks.first_difference({**shapes, "embedding/embeddings": (9, 9)}) is None, "left out on purpose"
    misshapen = masks.first_difference({"conv/kernel": (2, 2), "dense/kernel": (5,)})
    assert "'dense/kernel' has shape (5,) in the model, but its mask has shape (4,)" in misshapen
    assert "'conv2/kernel' is a prunable weight" in masks.first_difference({**shapes, "conv2/kernel": (1,)})
    assert "'dense/kernel', but the model has no such" in masks.first_difference({"conv/kernel": (2, 2)})
    # Several at once: the model's order decides, then that of the masks.
    assert masks.first_difference({"first": (1,), "conv/kernel": (3,)}).startswith("'first'")
    assert masks.first_difference({"conv/kernel": (3,), "last": (1,)}).startswith("'conv/kernel'")


def test_shuffled_keeps_as_many_weights_of_each_tensor_but_others():
    rng = np.random.default_rng(0)
    masks = Masks(
        {"a/kernel": rng.random((40, 30)) < 0.1, "b/kernel": rng.random((3, 3, 4, 20)) < 0.5},
        left_out={"c": "frozen"},
        metadata={"method": "snip"},
    )
    shuffled = masks.shuffled(seed=1)
    for path, mask in masks.items():
        assert shuffled[path].shape == mask.shape
        assert shuffled[path].sum() == mask.sum()
        # By chance, of the kept ones as many stay as the density says.
        both = (shuffled[path] & mask).sum() / mask.sum()
        assert abs(both - mask.mean()) < 0.1
    assert shuffled == masks.shuffled(seed=1)
    assert shuffled != masks.shuffled(seed=2)
    assert shuffled.metadata == {"method": "snip", "shuffled": {"seed": 1}}
    assert dict(shuffled.left_out) == {"c": "frozen"}
    with pytest.raises(ValueError, match=r"seed.*Received"):
        masks.shuffled(seed=-1)
