"""`python -m training` is `cxr-train`."""

from training.cli import main

main()
