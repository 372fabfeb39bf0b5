"""What a data set asks of a detector, and pages of pictures that show it and its augmentations."""
