"""stilts-ds: supplementary training on intermediate labelled-data tasks (STILTs), at cluster scale."""

__version__ = "0.1.0"
