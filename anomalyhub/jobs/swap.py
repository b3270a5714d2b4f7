"""The swap bench as a job; its result is the folder that `anomalyhub swap` writes."""

from __future__ import annotations

from anomalyhub.benchmark.swap import SwapConfig, swap_to
from anomalyhub.jobs.kinds import Context, register_job


@register_job("swap", SwapConfig, makes="dataset")
def run(context: Context) -> None:
    """Fit and measure every chain, and write all of it; the seeds are those of the config."""
    if context.result is None:
        return
    context.progress(0.0, "loading")
    made = swap_to(context.result, context.config, progress=context.progress, checkpoints=context.checkpoints)
    for notice in made.notices:
        print(f"notice: {notice}")
