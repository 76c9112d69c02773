"""The decision service: it starts from a packaged model and a digest, and needs neither MLflow nor DVC."""
