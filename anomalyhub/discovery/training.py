"""The training loop of AnomalyNCD: which views are drawn when, checkpoints, and the record of the losses.

Every batch follows from (seed, epoch, step, rank), so that a resumed run is the undisturbed one.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anomalyhub.discovery.network import Network, TokenCache, Trunk
from anomalyhub.discovery.objective import TERMS, Objective, learning_rate, teacher_temperature
from anomalyhub.errors import InvalidArgumentError, InvalidModelError
from anomalyhub.fsio import atomic_file
from anomalyhub.types import SubImage

_DRAW, _VIEW, _SHARE, _CACHE = 2, 3, 4, 5  # the second number of the random keys; 1 is taken by the calibration
_FILE = "checkpoint.safetensors"


@dataclass(eq=False)
class Training:
    """One run.

    sub_images  unlabelled ones, then base ones     labels  (N,) int64, -1 for unlabelled ones
    settings    whatever else the result depends on; a checkpoint of other settings is refused
    checkpoints a folder, or None for no checkpoints
    history     one entry per epoch: mean loss and terms, learning rate, views that the trunk is run for
    head_losses H clustering losses of the last epoch
    """

    network: Network
    trunk: Trunk
    objective: Objective
    config: Any
    seed: int
    sub_images: Sequence[SubImage]
    labels: np.ndarray
    accelerator: Any
    checkpoints: Path | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def run(self, tick: Callable[[float, str], None]) -> None:
        """Train from the start or the last checkpoint; `tick` hears the share done and the losses, and may raise."""
        config, accelerator = self.config, self.accelerator
        trained = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        optimizer = torch.optim.SGD(trained, config.lr, config.momentum, weight_decay=config.weight_decay)
        self.history: list[dict[str, float]] = []
        self.head_losses = [0.0] * config.n_heads
        start = self._resume(optimizer)
        self._plan()
        model, optimizer = accelerator.prepare(self.network, optimizer)
        model.eval()  # nothing here depends on it: no dropout trains
        for epoch in range(start, config.epochs):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, epoch)
            self._epoch(model, optimizer, epoch, tick)
            self._save(optimizer, epoch + 1)

    # who is drawn when

    def _plan(self) -> None:
        """How many views are kept of how many sub-images, and for how many epochs."""
        config, world = self.config, self.accelerator.num_processes
        novel, base = np.flatnonzero(self.labels < 0), np.flatnonzero(self.labels >= 0)
        if len(novel) < world:
            raise InvalidArgumentError(
                f"{len(novel)} sub-images do not keep {world} processes busy: start at most one process per sub-image"
            )
        self.novel, self.base = novel, base
        self.batch = max(1, config.batch_size // world)
        self.steps = max(1, (config.samples_per_epoch or len(self.labels)) // (self.batch * world))
        self.cache, self.capacity, self.generation_epochs = None, 1.0, 1
        if config.cache_views:
            own = math.ceil(len(self.labels) / world)
            room = config.cache_bytes // (config.cache_views * self.trunk.bytes_per_view(self.sub_images[0]))
            if room < 2:
                raise InvalidArgumentError(
                    f"cache_bytes ({config.cache_bytes}) has no room for two sub-images of {config.cache_views} views: "
                    "raise it, or set cache_views to 0"
                )
            self.capacity = min(1.0, room / own)
            self.generation_epochs = max(1, round(config.cache_epochs * self.capacity))

    def _share(self, generation: int) -> tuple[np.ndarray, np.ndarray]:
        """This process's unlabelled and base sub-images in a generation; in the next it has others."""
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        parts = []
        for kind, items in enumerate((self.novel, self.base)):
            order = np.random.default_rng((self.seed, _SHARE, generation, kind)).permutation(items)[rank::world]
            parts.append(order[: max(min(1, len(order)), math.floor(len(order) * self.capacity))])
        return parts[0], parts[1]

    def _pairs(
        self, epoch: int, step: int, share: tuple[np.ndarray, np.ndarray]
    ) -> tuple[np.ndarray, torch.Tensor, torch.Tensor]:
        """The items (B,) of a step, drawn with replacement, and the tokens of two views of each, first views first."""
        novel, base = share
        key = (epoch, step, self.accelerator.process_index)
        rng = np.random.default_rng((self.seed, _DRAW, *key))
        from_base = rng.random(self.batch) < (self.config.base_share if len(base) else 0.0)
        items = rng.choice(novel, self.batch)
        if len(base):
            items = np.where(from_base, rng.choice(base, self.batch), items)
        if self.cache is None:
            keys = [(self.seed, _VIEW, *key, view, position) for view in (0, 1) for position in range(self.batch)]
            x, inside = self.trunk([self.sub_images[item] for item in items] * 2, keys)
        else:
            slots = self.cache.slots
            first = rng.integers(slots, size=self.batch)
            second = (first + rng.integers(1, max(2, slots), size=self.batch)) % slots
            x, inside = self.cache(np.tile(items, 2), np.concatenate([first, second]))
        return items, x, inside

    # one epoch

    def _epoch(self, model: Any, optimizer: Any, epoch: int, tick: Callable[[float, str], None]) -> None:
        config, accelerator = self.config, self.accelerator
        generation = epoch // self.generation_epochs
        share = self._share(generation)
        if config.cache_views and (self.cache is None or self.cache_generation != generation):
            self.cache = None  # so that two are never held at once
            self.cache = TokenCache(
                self.trunk,
                self.sub_images,
                np.concatenate(share),
                config.cache_views,
                (self.seed, _CACHE, generation),
                lambda done: tick(epoch / config.epochs, f"epoch {epoch + 1} of {config.epochs}: views {done:.0%}"),
                config.embed_batch,
            )
            self.cache_generation = generation
        sums = {name: torch.zeros((), device=accelerator.device) for name in ("loss", *TERMS)}
        heads = torch.zeros(config.n_heads, device=accelerator.device)
        temperature = teacher_temperature(config, epoch)
        scores = np.array([sub_image.score for sub_image in self.sub_images], np.float32)
        for step in range(self.steps):
            tick((epoch + step / self.steps) / config.epochs, self._text(epoch))
            items, x, inside = self._pairs(epoch, step, share)
            with accelerator.autocast():
                logits, projected = model(x, inside)
            loss, terms = self.objective(
                logits.float().unflatten(1, (2, -1)),
                projected.float().unflatten(0, (2, -1)),
                torch.from_numpy(self.labels[items]).to(logits.device),
                torch.from_numpy(scores[items]).to(logits.device),
                temperature,
            )
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            sums["loss"] += loss.detach()
            for name in TERMS:
                sums[name] += terms[name].detach().mean()
            heads += self.objective.clustering(terms).detach()
        means = accelerator.reduce(torch.cat([torch.stack(list(sums.values())), heads]), "mean") / self.steps
        if not torch.isfinite(means).all():
            raise InvalidArgumentError(f"training diverged in epoch {epoch + 1}: lower the setting lr ({config.lr})")
        values = means.tolist()
        self.head_losses = values[len(sums) :]
        entry = dict(zip(sums, values, strict=False))
        self.history.append(
            {"epoch": epoch + 1, **entry, "lr": learning_rate(config, epoch), "trunk_views": self._trunk_views(epoch)}
        )

    def _trunk_views(self, epoch: int) -> int:
        """Views that this process runs the trunk for in an epoch; a cache filled again after a stop does not count."""
        if not self.config.cache_views:
            return 2 * self.batch * self.steps
        return len(self.cache.inside) if epoch % self.generation_epochs == 0 else 0

    def _text(self, epoch: int) -> str:
        text = f"epoch {epoch + 1} of {self.config.epochs}"
        if self.history:
            last = self.history[-1]
            text += ": " + ", ".join(f"{name.replace('_', ' ')} {last[name]:.3f}" for name in ("loss", *TERMS))
        return text

    # checkpoints

    def _save(self, optimizer: Any, epoch: int) -> None:
        """Weights and momentum as safetensors, the rest as JSON in its header; the first process writes."""
        if self.checkpoints is None:
            return
        from safetensors.torch import save_file

        if self.accelerator.is_main_process:
            state = getattr(optimizer, "optimizer", optimizer).state
            tensors = {f"model.{name}": value for name, value in self.network.state_dict().items()}
            for name, parameter in self.network.named_parameters():
                if parameter.requires_grad:
                    tensors[f"momentum.{name}"] = state[parameter]["momentum_buffer"]
            tensors = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
            run = {"settings": self._fingerprint(), "epoch": epoch, "history": self.history, "heads": self.head_losses}
            with atomic_file(self.checkpoints / _FILE) as file:
                save_file(tensors, file, {"run": json.dumps(run)})
        self.accelerator.wait_for_everyone()

    def _resume(self, optimizer: torch.optim.SGD) -> int:
        """The epoch to go on from: 0 without a checkpoint. Raises InvalidModelError for one of another run."""
        if self.checkpoints is None or not (file := self.checkpoints / _FILE).exists():
            return 0
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(file, "pt", device=str(self.trunk.backbone.device)) as opened:
                run = json.loads(opened.metadata()["run"])
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            if run["settings"] != self._fingerprint():
                raise InvalidModelError(
                    f"{file} belongs to a run with other settings, images or processes: give them again, or remove it"
                )
            self.network.load_state_dict(
                {name[6:]: value for name, value in tensors.items() if name.startswith("model.")}
            )
            for name, parameter in self.network.named_parameters():
                if parameter.requires_grad:
                    optimizer.state[parameter] = {"momentum_buffer": tensors[f"momentum.{name}"]}
            self.history, self.head_losses = run["history"], run["heads"]
            return int(run["epoch"])
        except (SafetensorError, OSError, KeyError, TypeError, RuntimeError) as error:
            raise InvalidModelError(f"{file} is damaged ({error}): remove it, and the run starts anew") from error

    def _fingerprint(self) -> str:
        """Of everything that the result depends on."""
        if not hasattr(self, "_digest"):
            digest = hashlib.sha256()
            settings = {**self.settings, "seed": self.seed, "processes": self.accelerator.num_processes}
            digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
            for sub_image, label in zip(self.sub_images, self.labels.tolist(), strict=True):
                digest.update(f"{sub_image.image.shape} {sub_image.score!r} {label}".encode())
                digest.update(sub_image.image.tobytes() + sub_image.mask.tobytes())
            self._digest = digest.hexdigest()
        return self._digest
