"""Tests of images: names, archives, layers, the stores."""
