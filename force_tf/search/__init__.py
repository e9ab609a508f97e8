"""The search for masks before any training."""
