"""Callbacks for `fit` that look after masks."""
