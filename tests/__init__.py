import llava_dvc  # noqa: F401 - its settings for OpenMP must stand before PyTorch loads
