"""What a model costs: multiply-adds, dense or of the kept weights."""
