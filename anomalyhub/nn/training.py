"""A training loop with checkpoints: one epoch after the other through accelerate, resumed to the same weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from anomalyhub.errors import InvalidArgumentError, InvalidModelError, OutputError
from anomalyhub.fsio import atomic_file, make_folder
from anomalyhub.protocols import Progress, part

Batch = TypeVar("Batch")
CHECKPOINT = "checkpoint.safetensors"


def make_accelerator(mixed_precision: bool = True) -> Any:
    """An accelerate.Accelerator for this process: its GPU where there is one, else the CPU.

    mixed_precision  bfloat16 where the GPU has it; a CPU, and an older GPU, computes in float32
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()  # accelerate keeps a precision for the life of a process; it belongs to a run
    if not torch.cuda.is_available():
        return Accelerator(cpu=True, mixed_precision="no")
    return Accelerator(mixed_precision="bf16" if mixed_precision and torch.cuda.is_bf16_supported(False) else "no")


def train_epochs(
    module: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    accelerator: Any,
    *,
    epochs: int,
    batches: Callable[[int], Iterable[Batch]],
    step: Callable[[torch.nn.Module, Batch], tuple[torch.Tensor, dict[str, torch.Tensor]]],
    learning_rate: Callable[[int], float] | None = None,
    until: Callable[[Mapping[str, float]], bool] | None = None,
    checkpoints: Path | None = None,
    save_every: int = 1,
    settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    text: Callable[[int, int, list[dict[str, float]]], str] | None = None,
) -> list[dict[str, float]]:
    """Train `module` in place; returns one entry per epoch: epoch (from 1), loss, the terms, lr.

    batches        this process's batches of an epoch (from 0). They follow from a seed, the epoch and the rank alone,
                   so that a resumed run ends with the very weights of an undisturbed one
    step           (model, batch) -> (loss, terms to be recorded); it runs under the accelerator's autocast
    learning_rate  of an epoch; None leaves the optimizer's
    until          says of an epoch's entry whether training ends with it; None: after all epochs
    checkpoints    folder that keeps the latest weights, optimizer and history, one for all processes; None keeps
                   nothing
    save_every     epochs from one checkpoint to the next; the last epoch is always kept
    settings       JSON values: whatever the result depends on. A checkpoint of other settings is refused
    text           what `progress` hears in an epoch (from 0) of so many, given the entries so far; None: epoch and loss
    Raises InvalidArgumentError when the loss is not finite, InvalidModelError for a foreign or damaged checkpoint,
    OutputError where one cannot be written.
    """
    file = checkpoints / CHECKPOINT if checkpoints is not None else None
    if file is not None:
        make_folder(file.parent)
    identity = _identity({**(settings or {}), "epochs": epochs, "processes": accelerator.num_processes})
    module.to(accelerator.device)
    history = _resume(file, module, optimizer, identity) if file is not None and file.exists() else []
    done = accelerator.gather(torch.tensor([len(history)], device=accelerator.device))
    if (done != len(history)).any():
        raise InvalidArgumentError(
            f"the processes see different checkpoints in {checkpoints} (epochs {done.tolist()}): "
            "give a folder that all of them share"
        )
    model, prepared = accelerator.prepare(module, optimizer)
    model.train()
    text, until = text or _text, until or (lambda entry: False)
    for epoch in range(len(history), epochs):
        if history and until(history[-1]):
            break
        if learning_rate is not None:
            for group in prepared.param_groups:
                group["lr"] = learning_rate(epoch)
        tick = part(progress, epoch / epochs, (epoch + 1) / epochs)
        means = _epoch(model, prepared, accelerator, batches(epoch), step, tick, text(epoch, epochs, history))
        history.append({"epoch": epoch + 1, **means, "lr": prepared.param_groups[0]["lr"]})
        if file is not None and ((epoch + 1) % save_every == 0 or epoch + 1 == epochs or until(history[-1])):
            if accelerator.is_main_process:
                _save(file, accelerator.unwrap_model(model), optimizer, identity, history)
            accelerator.wait_for_everyone()
    module.eval()
    part(progress, 0.0, 1.0)(1.0, text(len(history) - 1, epochs, history))
    return history


def _epoch(model, optimizer, accelerator, batches, step, tick: Progress, text: str) -> dict[str, float]:
    sums: dict[str, torch.Tensor] = {}
    count, total = 0, len(batches) if hasattr(batches, "__len__") else None
    for batch in batches:
        tick(count / total if total else 0.0, text)
        with accelerator.autocast():
            loss, terms = step(model, batch)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        for name, value in {"loss": loss, **terms}.items():
            sums[name] = sums.get(name, 0.0) + value.detach().float().mean()
        count += 1
    if not count:
        raise InvalidArgumentError("there is nothing to train on: give more images, or a smaller batch_size")
    means = accelerator.reduce(torch.stack(list(sums.values())), "mean") / count
    if not torch.isfinite(means).all():
        raise InvalidArgumentError("training diverged (the loss is no longer finite): lower the learning rate")
    return dict(zip(sums, means.tolist(), strict=True))


def _text(epoch: int, epochs: int, history: list[dict[str, float]]) -> str:
    text = f"epoch {epoch + 1} of {epochs}"
    return f"{text}: loss {history[-1]['loss']:.4f}" if history else text


def _identity(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


def _save(file: Path, module: torch.nn.Module, optimizer, identity: str, history: list[dict[str, float]]) -> None:
    """Weights and the optimizer's state as safetensors, the rest as JSON in its header."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {f"model.{name}": value for name, value in module.state_dict().items()}
    for number, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": value for name, value in values.items() if torch.is_tensor(value)}
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    if not file.parent.is_dir():  # which would be made again, with nothing else in it
        raise OutputError(f"{file.parent} was deleted while it was in use: start again")
    with atomic_file(file) as staged:
        try:
            save_file(tensors, staged, {"run": json.dumps({"identity": identity, "history": history})})
        except SafetensorError as error:  # which hides the system's
            raise OutputError(f"cannot write {file} ({error}): free some space") from error


def _resume(file: Path, module: torch.nn.Module, optimizer, identity: str) -> list[dict[str, float]]:
    """Load a checkpoint; returns its history."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as opened:
            run = json.loads(opened.metadata()["run"])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        if run["identity"] != identity:
            raise InvalidModelError(
                f"{file} belongs to a run with other settings, images or processes: give them again, or remove it"
            )
        module.load_state_dict({name[6:]: value for name, value in tensors.items() if name.startswith("model.")})
        state: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, number, name = key.split(".", 2)
                state.setdefault(int(number), {})[name] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        return run["history"]
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, InvalidModelError):
            raise
        raise InvalidModelError(f"{file} is damaged ({error}): remove it, and the run starts anew") from error
