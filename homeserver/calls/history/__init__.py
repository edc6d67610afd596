# SPDX-License-Identifier: Apache-2.0
"""What calls a user made and missed, read off the events of their rooms; nothing is kept beside these."""
