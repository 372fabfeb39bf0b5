"""What a data set asks of a detector: sizes, anchors and limits (`report`), and a page (`page`)."""
