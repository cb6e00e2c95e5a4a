"""How objects made here name their maker, so that they are known when they come back."""

import hashlib

from pydicom.dataset import Dataset

MANUFACTURER = "cxr-worker"
MODEL_NAME = "cxr-worker pneumonia"


def device_uid(model_name: str, model_version: str, weights_sha256: str) -> str:
    """Return the device UID of one model: it changes when the model does (PS3.5 B.2, UUID-derived).

    The same model has the same UID everywhere, so that reports of many sites can be told apart
    by model.
    """
    identity = "|".join((MANUFACTURER, model_name, model_version, weights_sha256))
    return derived_uid(identity)


def derived_uid(identity: str) -> str:
    """Return a UID that depends on nothing but `identity`."""
    digest = hashlib.sha256(identity.encode()).digest()[:16]
    return f"2.25.{int.from_bytes(digest, 'big')}"


def is_our_object(ds: Dataset) -> bool:
    """Say whether this software made the object: by General Equipment, present in a header read."""
    try:
        return (
            str(ds.get("Manufacturer", "")).strip() == MANUFACTURER
            and str(ds.get("ManufacturerModelName", "")).strip() == MODEL_NAME
        )
    except Exception:  # pydicom converts lazily: a corrupt element raises anything
        return False
