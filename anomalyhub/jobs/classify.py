"""Pretraining and fitting of classifiers as jobs; their results are what `pretrain` and `classify fit` write."""

from __future__ import annotations

from anomalyhub.jobs.kinds import Context, register_job
from anomalyhub.pipeline.classify import ClassifyConfig, classify_to
from anomalyhub.pipeline.pretrain import PretrainConfig, pretrain_to


@register_job("pretrain", PretrainConfig)
def run_pretrain(context: Context) -> None:
    """Pretrain a head on synthetic defects."""
    _run(pretrain_to, context)


@register_job("classify", ClassifyConfig)
def run_classify(context: Context) -> None:
    """Learn kinds from examples; the result is an inspector's folder."""
    made = _run(classify_to, context)
    for notice in made.notices:
        print(f"notice: {notice}")


def _run(work, context: Context):
    return work(
        context.result,
        context.config,
        seed=context.seed,
        progress=context.progress,
        checkpoints=context.checkpoints,
    )
