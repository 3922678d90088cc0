"""specgen map: records in, results out."""
