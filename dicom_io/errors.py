"""What can be wrong with a DICOM object. ``str(error)`` is a short reason shown to users.

The reason never carries anything from the file but UIDs, codes and sizes.
"""


class DicomError(Exception):
    """Base of every error this package raises about an object's content."""


class UnreadableDicom(DicomError):
    """Not DICOM, truncated, or an element that is needed is corrupt."""


class NoPixels(DicomError):
    """There is no pixel data, or it is empty."""


class UnsupportedPixels(DicomError):
    """The object is readable, but its pixels are no picture that is analysed here.

    Multi-frame, a constant image, a transfer syntax without decoder, an absurd size.
    """


class DestinationUnavailable(Exception):
    """A destination cannot be used now, whatever the object: unreachable, refused, timed out.

    The message says why; whoever shows it says which.
    """
