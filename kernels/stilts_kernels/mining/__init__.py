"""Bitext mining: neighbours both ways from one pass, margins, matching; sides split over ranks and files."""
