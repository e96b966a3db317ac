"""The training step on a CPU, compiled from C."""
