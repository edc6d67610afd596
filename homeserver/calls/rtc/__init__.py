# SPDX-License-Identifier: Apache-2.0
"""Group calls by MatrixRTC (MSC4143, MSC4195): who may enter which call on the LiveKit server, and under which name.

The members of a call are room state, the media is LiveKit's; this is the door between the two.
"""
