"""The one exception that means "what you asked for cannot be run", shown as a single line with exit status 2."""


class UsageError(Exception):
    """Bad input, found before anything is trained. The message names what was given, what is allowed and what to do."""
