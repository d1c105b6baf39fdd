"""Host time of an engine step, and the power limit of a GPU, measured through the engine itself."""

__all__: list[str] = []
