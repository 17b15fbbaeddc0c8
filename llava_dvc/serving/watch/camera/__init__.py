"""One camera: its stream, its newest frame, its count and its state."""
