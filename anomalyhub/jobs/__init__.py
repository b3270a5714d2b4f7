"""Long work in processes of its own: a job is a folder, and all that is known about it is on disk."""

from anomalyhub.jobs import classify as _classify  # noqa: F401  (registers itself)
from anomalyhub.jobs import discover as _discover  # noqa: F401
from anomalyhub.jobs import fit as _fit  # noqa: F401
from anomalyhub.jobs import swap as _swap  # noqa: F401
from anomalyhub.jobs import synthesize as _synthesize  # noqa: F401
from anomalyhub.jobs.kinds import Context, kinds, register_job
from anomalyhub.jobs.store import Job, JobProgress, JobStore

__all__ = ["Context", "Job", "JobProgress", "JobStore", "kinds", "register_job"]
