# SPDX-License-Identifier: Apache-2.0
"""Whether a server can be found, reached and believed, seen from this machine; each problem with what to change."""

from federation.doctor.examination import Examiner, Own
from homeserver.observability.findings import Finding, Part, Report, Severity

__all__ = ["Examiner", "Finding", "Own", "Part", "Report", "Severity"]
