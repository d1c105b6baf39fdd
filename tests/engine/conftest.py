"""The small models that the real engine serves, for every test of this folder."""

from tests.served_models import models

__all__ = ["models"]
