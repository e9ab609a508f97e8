"""Programs that run in processes of their own, and so import nothing of force_tf."""
