"""Errors of the commands: each message says what, where and what to do."""


class WorkerError(Exception):
    """Something that ends a command; its text is for the person who typed it."""


class BadSettings(WorkerError):
    """One or more settings cannot be used; the text names every one of them."""
