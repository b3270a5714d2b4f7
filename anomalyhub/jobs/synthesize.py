"""Synthesis as a job; its result is the data set that `anomalyhub synthesize` writes."""

from __future__ import annotations

from anomalyhub.jobs.kinds import Context, register_job
from anomalyhub.pipeline.synthesize import SynthesizeConfig, synthesize_to


@register_job("synthesize", SynthesizeConfig, accelerate=False, makes="dataset")
def run(context: Context) -> None:
    """Paint defects on normal images, and write all of it."""
    made = synthesize_to(
        context.result, context.config, seed=context.seed, progress=context.progress, checkpoints=context.checkpoints
    )
    for text in (*made.notices, *(f"skipped: {reason}" for reason in made.skipped)):
        print(text)
