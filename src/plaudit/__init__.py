"""plaudit learns from feedback: it keeps what was said about a model's outputs, improves the model, and proves by how much."""

__version__ = "0.1.0"
