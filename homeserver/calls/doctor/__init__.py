# SPDX-License-Identifier: Apache-2.0
"""The examination of `lares doctor calls`: TURN, a call through it, the echo account, LiveKit.

    asking       questions to a media process, which does what needs aiortc
    turn         each TURN URI: an allocation with real credentials, then a call that may only go through it
    echo         a call to the echo account of the running server, as a client makes it
    livekit      whether group calls' server is there and takes the key

Each gives findings; an administrator can act on every problem's sentence.
"""
