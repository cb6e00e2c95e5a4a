from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID

from dicom_io.contexts import (
    IMAGE_SOP_CLASSES,
    IMAGE_TRANSFER_SYNTAXES,
    OTHER_SOP_CLASSES,
    STORAGE_COMMITMENT,
    STORAGE_CONTEXTS,
    VERIFICATION,
    listener_contexts,
)
from dicom_io.eligibility import is_image_class
from dicom_io.pixels import DECODERS


def test_image_transfer_syntaxes_are_offered_exactly_as_far_as_they_can_be_decoded():
    assert set(IMAGE_TRANSFER_SYNTAXES) == set(DECODERS)
    for syntax, plugins in DECODERS.items():
        available = {*get_decoder(syntax).available_plugins, "", "gdcm12"}
        assert available & set(plugins), UID(syntax).name


def test_every_sop_class_is_a_storage_class_of_the_standard():
    for uid, name in (IMAGE_SOP_CLASSES | OTHER_SOP_CLASSES).items():
        assert UID(uid).name.replace(" Storage", "").startswith(name.split(",")[0]), uid
        assert is_image_class(uid) == (uid in IMAGE_SOP_CLASSES)


def test_the_listener_offers_few_contexts_verification_and_commitment_among_them():
    contexts = listener_contexts()
    assert len(contexts) == len(STORAGE_CONTEXTS) + 2 < 30
    assert {VERIFICATION, STORAGE_COMMITMENT} <= {it.abstract_syntax for it in contexts}


def test_non_images_are_offered_without_pixel_compression():
    for uid in OTHER_SOP_CLASSES:
        assert not any(UID(ts).is_encapsulated for ts in STORAGE_CONTEXTS[uid])
