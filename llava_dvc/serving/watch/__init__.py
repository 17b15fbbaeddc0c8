"""`llava-dvc watch`: live counts of cameras. Threads are thin; the other modules decide."""
