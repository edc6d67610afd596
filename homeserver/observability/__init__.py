# SPDX-License-Identifier: Apache-2.0
"""What the server says about itself: logs on standard error, figures for Prometheus.

Owns their form. What is worth saying is decided where it happens.
"""
