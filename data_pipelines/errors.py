"""The one exception that carries a sentence for the user instead of a traceback."""

from __future__ import annotations


class InputError(ValueError):
    """Something the user gave is wrong: a file, a column, a config key, a checkpoint.

    The message is one sentence that says what is wrong, where, and what to do. The command-line
    programs print it without a traceback and exit with status 2.
    """
