"""The dataset: items as text and as speech, the audio they name, and vocabularies."""

from xopd.data.items import AudioFile, Item, load_items

__all__ = ["AudioFile", "Item", "load_items"]
