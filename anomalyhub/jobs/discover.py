"""Discovery as a job; its result is the folder that `anomalyhub discover` writes."""

from __future__ import annotations

from anomalyhub.jobs.kinds import Context, register_job
from anomalyhub.pipeline.discover import DiscoverConfig, discover_to


@register_job("discover", DiscoverConfig, inner="model")
def run(context: Context) -> None:
    """Find regions, group them, and write all of it."""
    context.progress(0.0, "loading")
    found = discover_to(
        context.result,
        context.config,
        seed=context.seed,
        progress=context.progress,
        checkpoints=context.checkpoints,
    )
    for reason in found.skipped:
        print(f"skipped: {reason}")
