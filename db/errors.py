"""What can go wrong with the database, for callers to map to a status or a retry."""


class DatabaseError(Exception):
    """Base of the errors that this package raises itself."""


class SchemaMismatch(DatabaseError):
    """The database's schema is not the one that this version of cxr-worker works on."""


class LeaseLost(DatabaseError):
    """The row was claimed by another worker, or finished, since this worker claimed it."""


class RevisionChanged(DatabaseError):
    """The study changed while its report was being built, so the report must not be kept."""
