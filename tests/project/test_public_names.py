"""What `force_tf` names is imported when it is used, and editors and type checkers know it before."""

import ast
import pathlib
import subprocess
import sys

import pytest

import force_tf

# What a program that only loads and runs pruned models has no use for.
UNUSED = ("callbacks", "channels.rules", "cost", "criteria", "export", "plots", "search", "shrinking", "training")
CODE = f"""
import sys
import keras
import force_tf
loaded = [name for name in {UNUSED!r} if "force_tf." + name in sys.modules]
assert not loaded, loaded
assert set(force_tf.__all__) <= set(dir(force_tf))
assert force_tf.channels.labels(3) is not None
from force_tf import *
missing = [name for name in force_tf.__all__ if name not in globals()]
assert not missing, missing
"""


def test_unused_parts_are_not_imported():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_type_checkers_see_the_names_that_are_imported_late():
    tree = ast.parse(pathlib.Path(force_tf.__file__).read_text())
    homes = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            homes |= {name.name: node.module for name in node.names}
    for name in force_tf.__all__:
        value = getattr(force_tf, name)
        if isinstance(value, type(force_tf)):
            assert homes[name] == "force_tf"
            assert value.__name__ == f"force_tf.{name}"
        else:
            assert getattr(sys.modules[homes[name]], name) is value


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'force_tf' has no attribute 'prune_at_unit'"):
        force_tf.prune_at_unit  # noqa: B018
