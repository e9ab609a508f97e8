"""Exact rewrites of a TFLite file's graph for a phone's sparse kernels."""
