"""The stages from source systems to a packaged model, run by DVC: dvc.yaml says what feeds what."""
