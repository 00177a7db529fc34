"""Why a deployment failed: told by Azure's sentence, the pod's events and the containers' logs."""

from mlops.diagnosis.failing import Failure, container_logs, failure, report_lines
from mlops.diagnosis.known import Cause, explain

__all__ = ["Cause", "Failure", "container_logs", "explain", "failure", "report_lines"]
