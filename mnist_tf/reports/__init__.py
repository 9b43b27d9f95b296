"""Reports on trained models. Imports nothing of the package."""
