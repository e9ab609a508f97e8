"""The classes of TFLite's schema, as TensorFlow generates them: it has no public way to read and write the files."""

from tensorflow.lite.python import schema_py_generated as schema

__all__ = ["schema"]
