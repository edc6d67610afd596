# SPDX-License-Identifier: Apache-2.0
"""Parts of a document that a command writes: what stands between two marks is replaced, the rest is kept."""


def replaced(document: str, begin: str, end: str, text: str) -> str:
    """The document with another text between the marks; ValueError unless they are there, once each, in order."""
    if document.count(begin) != 1 or document.count(end) != 1 or document.index(begin) > document.index(end):
        raise ValueError(f"the document needs the lines {begin!r} and {end!r}, in this order, once each")
    before, rest = document.split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"
