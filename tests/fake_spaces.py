"""A stand-in for the `spaces` package of a ZeroGPU Space, written from what that package does (0.51): torch pretends to
have a GPU and refuses to use it, but in a function that `GPU` decorates, which runs in a fork of the process. Arguments
and results are pickled, errors arrive as nothing but the name of their class.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle

import gradio as gr
import torch

assert not torch.cuda.is_initialized(), "spaces has to be imported before CUDA is used"

forked = False
durations: list[int] = []
sent: list[int] = []

_plain = torch.cuda.is_available, torch.cuda.device_count


def _refuse() -> None:
    raise RuntimeError("Low-level CUDA init reached")


zero = os.environ.get("SPACES_ZERO_GPU") == "true"  # elsewhere the package does nothing; gradio imports it anyway
if zero:
    torch.cuda.is_available, torch.cuda.device_count, torch._C._cuda_init = lambda: True, lambda: 1, _refuse


def GPU(task=None, *, duration=60):
    if not zero:
        return task
    if task is None:
        return lambda task: GPU(task, duration=duration)

    def call(*arguments):
        durations.append(duration(*arguments) if callable(duration) else duration)
        data = pickle.dumps(arguments)
        sent.append(len(data))
        context = multiprocessing.get_context("fork")
        reading, writing = context.Pipe(duplex=False)
        worker = context.Process(target=_work, args=(task, data, writing), daemon=True)
        worker.start()
        writing.close()
        try:
            fine, value = pickle.loads(reading.recv_bytes())
        except EOFError:
            raise gr.Error("GPU task aborted") from None
        finally:
            worker.join()
        if not fine:
            raise gr.Error(value)
        return value

    return call


def _work(task, data: bytes, writing) -> None:
    global forked
    forked = True
    torch.cuda.is_available, torch.cuda.device_count = _plain
    try:
        result = True, task(*pickle.loads(data))
    except Exception as error:
        result = False, type(error).__name__
    writing.send_bytes(pickle.dumps(result))
