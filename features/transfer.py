"""Batches on their way to a device: on CUDA the next one travels while the current one is computed."""

from __future__ import annotations

from collections.abc import Sequence

import torch


class Transfer:
    """Stacks images (3, H, W) to a batch (B, 3, H, W) on the device.

    On CUDA the batch lies in pinned memory and is copied on a stream of its own; the stream that computes waits for it
    there, and the caller goes on at once. uint8 pixels travel as they are: a quarter of their bytes as floats.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, images: Sequence[torch.Tensor]) -> torch.Tensor:
        if self.stream is None:
            return torch.stack(list(images)).to(self.device)
        pinned = torch.empty((len(images), *images[0].shape), dtype=images[0].dtype, pin_memory=True)
        torch.stack(list(images), out=pinned)
        with torch.cuda.stream(self.stream):
            batch = pinned.to(self.device, non_blocking=True)
        computing = torch.cuda.current_stream(self.device)
        computing.wait_stream(self.stream)
        batch.record_stream(computing)  # its memory is not used again before the computation has read it
        return batch
