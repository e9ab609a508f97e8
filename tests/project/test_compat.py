"""The versions under force_tf: what is said about untested ones, and what an import costs."""

import configparser
import pathlib
import re
import subprocess
import sys
import warnings

import pytest

from force_tf import compat

TESTED = {"tensorflow": "2.21.0", "keras": "3.15.1"}


@pytest.mark.parametrize(
    "installed",
    [TESTED, {"tensorflow": "2.18.0", "keras": "3.8.0"}, {"tensorflow": "2.21.0rc1", "keras": "3.15.0.dev2"}],
)
def test_tested_versions_pass_silently(installed):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compat.check_versions(installed)


@pytest.mark.parametrize(("package", "version"), [("tensorflow", "2.15.1"), ("keras", "2.15.0"), ("keras", "3.7.0")])
def test_older_versions_are_refused_in_one_sentence(package, version):
    with pytest.raises(ImportError, match=rf"expects {package}>=.*Received: {package} {re.escape(version)}$") as caught:
        compat.check_versions({**TESTED, package: version})
    assert caught.value.name == package


@pytest.mark.parametrize(("package", "version"), [("tensorflow", "2.22.0"), ("keras", "4.0.0"), ("keras", "3.100")])
def test_newer_versions_get_a_warning(package, version):
    with pytest.warns(UserWarning, match=rf"tested with {package}.*Received: {package} {re.escape(version)}$"):
        compat.check_versions({**TESTED, package: version})


@pytest.mark.parametrize("package", ["tensorflow", "keras"])
def test_a_missing_package_is_named(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)  # what makes `import package` fail
    with pytest.raises(ImportError, match=rf"^force_tf expects {package} to be importable: run `pip install force_tf`"):
        compat.check_versions()


def test_another_backend_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setitem(sys.modules, "keras", None)
    with pytest.raises(ImportError, match=r"expects Keras on its TensorFlow backend: unset KERAS_BACKEND.*=jax"):
        compat.check_versions()


def test_pip_is_told_the_lowest_versions_and_no_highest():
    config = configparser.ConfigParser()
    config.read(pathlib.Path(__file__).parents[2] / "setup.cfg")
    requirements = config["options"]["install_requires"].split()
    for package, ((major, minor), _) in compat.TESTED.items():
        assert f"{package}>={major}.{minor}" in requirements, requirements


def test_import_loads_no_optional_package():
    # Keras itself loads some of them where they are installed: what counts is what force_tf adds.
    code = """
import sys, keras, tensorflow
before = set(sys.modules)
import force_tf
optional = {"tensorflow_model_optimization", "tf_keras", "tensorflow_datasets", "sklearn", "matplotlib"}
print(*sorted(optional & (set(sys.modules) - before)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == [], f"import force_tf loaded {done.stdout}"
