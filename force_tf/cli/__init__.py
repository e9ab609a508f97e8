"""What `python -m force_tf` does: each command is a call or two of the public API."""
