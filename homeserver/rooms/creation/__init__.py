# SPDX-License-Identifier: Apache-2.0
"""Making rooms: `wishes` says what is asked for, `blueprint` what events that means, `create` and `upgrade` do it."""
