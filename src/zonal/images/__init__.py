"""Images: names, archives, layers flattened to one tree, the store of images and of kernels."""
