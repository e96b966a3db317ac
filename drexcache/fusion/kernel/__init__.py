"""The training step on a CPU, written in C."""
