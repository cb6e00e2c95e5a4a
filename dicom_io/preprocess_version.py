"""The version of `preprocess`, for who must know it without loading what reads pixels.

A bundle made with another version is refused when it is loaded.
"""

VERSION = 2
