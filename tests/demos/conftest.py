from data.conftest import pair

__all__ = ["pair"]
