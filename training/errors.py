"""What a user of `cxr-train` can mend."""


class TrainingError(Exception):
    """Base of the errors that are shown as one line."""


class DatasetError(TrainingError):
    """The training data is not there, not readable or not laid out as expected."""


class CheckpointError(TrainingError):
    """A weights file is missing or not a checkpoint that its reader knows."""


class RecipeError(TrainingError):
    """There is no such recipe, or its settings make no sense."""


class RunError(TrainingError):
    """A run's folder does not hold what the command needs."""


class NotFinite(TrainingError):
    """The loss is no number any more: going on would only waste time."""
