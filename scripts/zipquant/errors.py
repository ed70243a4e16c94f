"""The one exception that is meant for the user."""


class UserError(Exception):
    """Something the user can mend: the message says what is wrong, in which file, and what to do.

    Every entry point prints it as one plain line, without a traceback.
    """


class ToolkitError(UserError):
    """rknn-toolkit2 failed at something that was right to ask: with other settings it may not."""
