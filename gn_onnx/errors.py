"""The one exception type that users of this package have to catch."""


class GnOnnxError(Exception):
    """Bad input or an operation that could not be carried out; the message names file, node and shape.

    The command line turns it into one line on stderr and exit status 2. A look-alike that is not a
    GroupNorm is never an error: it is a `Rejection`, a value.
    """


class ParityError(GnOnnxError):
    """The fused model does not compute what the original computes; nothing was written (exit status 1)."""
