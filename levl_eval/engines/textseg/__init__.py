"""Zero-shot segmentation: patch tokens compared with the texts of the classes, without training."""
