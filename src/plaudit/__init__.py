"""Learn from feedback: keep what was said about a model's outputs, improve the model with it, prove by how much."""

__version__ = "0.1.0"
