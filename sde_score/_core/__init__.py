"""The foundation of every room: checks of arguments, registries of names, files written whole."""

__version__ = "0.1.0"
