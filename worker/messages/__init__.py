"""Results for who takes no DICOM: HL7 v2 over MLLP, and webhooks, through the same outbox."""
