"""The database: the truth about every study, instance, report and delivery."""
