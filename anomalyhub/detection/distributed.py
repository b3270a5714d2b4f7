"""The processes of an `accelerate launch` or torchrun, as few words as a detector needs."""

from __future__ import annotations

import os

import numpy as np


class World:
    """rank and size of this process's group; a lone process needs no accelerate."""

    def __init__(self):
        self.rank, self.size = 0, 1
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            import torch
            from accelerate import PartialState

            state = PartialState(cpu=not torch.cuda.is_available())  # without this word it takes a CPU for a lone one
            self.rank, self.size, self.device = state.process_index, state.num_processes, state.device

    def gather(self, array: np.ndarray) -> list[np.ndarray]:
        """Every process's array, by rank; their lengths may differ, the other axes may not."""
        import torch
        from accelerate.utils import gather

        lengths = gather(torch.tensor([len(array)], device=self.device)).tolist()
        padded = np.zeros((max(lengths), *array.shape[1:]), array.dtype)
        padded[: len(array)] = array
        parts = gather(torch.from_numpy(padded).to(self.device)[None]).cpu().numpy()
        return [part[:length] for part, length in zip(parts, lengths, strict=True)]

    def gather_counts(self, counts: dict[int, int]) -> list[dict[int, int]]:
        """Every process's counts by key, by rank."""
        parts = self.gather(np.array(sorted(counts.items()), np.int64).reshape(-1, 2))
        return [{int(key): int(count) for key, count in part} for part in parts]
