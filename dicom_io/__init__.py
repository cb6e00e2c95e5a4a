"""Everything that reads, writes or moves DICOM: datasets, pixels, reports, C-STORE as SCU."""
