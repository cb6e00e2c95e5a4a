"""What can go wrong with a model."""


class ModelError(Exception):
    """The model cannot do what was asked of it."""


class BundleError(ModelError):
    """A model bundle is missing, damaged, altered or made for another version."""
