"""From what a classifier said of records to every figure of `results.json`, and back again."""
