"""The running system: listener, workers, deliveries and the commands that people type."""
