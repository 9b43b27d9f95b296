"""Reports on trained models: exact metrics. Imports nothing of the package."""
