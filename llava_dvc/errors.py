"""The error that a user can mend."""


class UserError(ValueError):
    """A mistake the user can correct. Its text is shown as it is, without a traceback."""
