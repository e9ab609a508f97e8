"""What is differentiated, and by what: batches, losses, gradients."""
