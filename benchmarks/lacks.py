"""What a benchmark needs and does not find."""

from __future__ import annotations


class Lacking(Exception):
    """The message names what is missing, as the end of "this needs"."""


class ServerFailed(Exception):
    """A server did not start, or not do what it was asked; the message says which and why."""
