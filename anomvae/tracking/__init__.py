"""MLflow: runs, models, the registry and its aliases. Only this package imports MLflow."""
