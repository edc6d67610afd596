# SPDX-License-Identifier: Apache-2.0
"""The content repository: what users upload, what they download from here and elsewhere, thumbnails of it.

Client-server API, "Content repository". Bytes are kept once however often they were uploaded, in files named by their
digest; so no name that anybody chooses ever becomes a path.
"""
