"""What top-k and mining share: rows, exact scores, ranking, files of rows, the report of a search, ranks."""
