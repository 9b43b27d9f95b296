"""Reports on trained models: metrics, comparisons. Imports nothing of the package."""
