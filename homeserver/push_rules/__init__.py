# SPDX-License-Identifier: Apache-2.0
"""Users' push rules: kept as account data, edited rule by rule, and compiled for who counts or pushes."""

from homeserver.push_rules.news import AccountDataWithRules
from homeserver.push_rules.service import PushRules

__all__ = ["AccountDataWithRules", "PushRules"]
