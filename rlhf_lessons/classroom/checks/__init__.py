"""The hidden checks of each lesson."""
