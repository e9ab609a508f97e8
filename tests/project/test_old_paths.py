"""What users pickled before modules moved still loads."""

import base64
import pickle

import keras
import numpy as np

import force_tf

# Made by release 0.1.0 as it was when most modules lay at the top of the package.
PRUNER = (
    "gASVkQEAAAAAAACMFmZvcmNlX3RmLnBydW5lX2F0X2luaXSUjAtQcnVuZUF0SW5pdJSTlCmBlH2UKIwGbWV0aG9klIwEc25pcJSMCWNyaXRlcm"
    "lvbpSMFmZvcmNlX3RmLmNyaXRlcmlhLnNuaXCUjARTTklQlJOUKYGUjAhzcGFyc2l0eZRHP+zMzMzMzM2MBXN0ZXBzlEsBjAhzY2hlZHVsZZSM"
    "C2V4cG9uZW50aWFslIwJX3NjaGVkdWxllIwSZm9yY2VfdGYuc2NoZWR1bGVzlGgPk5SMB2JhdGNoZXOUSwGMBnJldml2ZZSJjAVzY29wZZSMBm"
    "dsb2JhbJSMDW1pbl9wZXJfbGF5ZXKUSwCMDF9ncmFudWxhcml0eZSMGWZvcmNlX3RmLmdyYW51bGFyaXR5LmJhc2WUjAdXZWlnaHRzlJOUKYGU"
    "jAtncmFudWxhcml0eZSMBndlaWdodJSMBmxheWVyc5ROjARzZWVklEsAjAdoaXN0b3J5lF2UjApfZGVuc2l0aWVzlF2URz+5mZmZmZmYYXViLg"
    "=="
)
REPORT = (
    "gASVqwEAAAAAAACMFmZvcmNlX3RmLnNocmluay5yZXBvcnSUjAxTaHJpbmtSZXBvcnSUk5QpgZR9lCiMBW1vZGVslIwKc2VxdWVudGlhbJSMBm"
    "xheWVyc5RoAIwLTGF5ZXJDaGFuZ2WUk5QpgZR9lCiMBHBhdGiUjAFhlIwEa2luZJSMBURlbnNllIwPY2hhbm5lbHNfYmVmb3JllEsEjA5jaGFu"
    "bmVsc19hZnRlcpRLBIwRcGFyYW1ldGVyc19iZWZvcmWUSxSMEHBhcmFtZXRlcnNfYWZ0ZXKUSxSMFG11bHRpcGx5X2FkZHNfYmVmb3JllEsQjB"
    "NtdWx0aXBseV9hZGRzX2FmdGVylEsQdWJoCSmBlH2UKGgMjAFilGgOaA9oEEsCaBFLAmgSSwpoE0sKaBRLCGgVSwh1YoaUaBJLHmgTSx5oFEsY"
    "jBRtdWx0aXBseV9hZGRzX21hc2tlZJRLGGgVSxiMCHNwYXJzaXR5lEcAAAAAAAAAAIwSZWZmZWN0aXZlX3NwYXJzaXR5lEcAAAAAAAAAAIwHdW"
    "5rbm93bpR9lIwJdW5jb3VudGVklH2UdWIu"
)
ERROR = b"cforce_tf.collapse\nCollapsedError\np0\n(Vx\np1\ntp2\nRp3\n."


def load(text):
    return pickle.loads(base64.b64decode(text))


def test_pruners():
    pruner = load(PRUNER)
    assert isinstance(pruner, force_tf.PruneAtInit)
    model = keras.Sequential([keras.Input((10,)), keras.layers.Dense(10), keras.layers.Dense(10)])
    x, y = np.random.default_rng(0).normal(size=(2, 32, 10)).astype("float32")
    masks = pruner.find_masks(model, (x, y), "mse", verbose=0)
    assert masks == force_tf.PruneAtInit("snip", 0.9, seed=0).find_masks(model, (x, y), "mse", verbose=0)


def test_reports():
    report = load(REPORT)
    assert [layer.path for layer in report.layers] == ["a", "b"]
    assert "multiply-adds" in str(report)


def test_errors():
    assert isinstance(pickle.loads(ERROR), force_tf.CollapsedError)


def test_a_function_does_not_hide_behind_a_module():
    assert callable(force_tf.shrink)
