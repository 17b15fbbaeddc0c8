"""The backbone's linear layers in 8-bit floating point: `backbone.quantization: fp8`."""
