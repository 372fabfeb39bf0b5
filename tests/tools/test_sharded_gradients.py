"""Every gradient of a training step on images whose height is divided, against one device."""
