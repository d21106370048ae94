"""The network and its parameters: configuration, layers, quantization, rotary positions."""
