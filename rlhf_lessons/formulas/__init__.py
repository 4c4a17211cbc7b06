"""The mathematics: pure tensor -> tensor functions."""
