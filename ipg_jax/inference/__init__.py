"""Trained detectors at work on images that no data set holds."""
