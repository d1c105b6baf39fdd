"""Databases, shipped measurements, lowered models and their formulas, put together: what commands and programs use."""

__all__: list[str] = []
