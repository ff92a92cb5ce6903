"""The two ways in which data can be unusable."""

from __future__ import annotations


class DataError(ValueError):
    """Data that are not what they claim to be; the message is one sentence that names the file."""


class DataNotFound(DataError, FileNotFoundError):
    """Files that are not there; the message says what was looked for and where."""
