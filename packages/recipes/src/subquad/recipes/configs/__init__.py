"""Configuration files of the recipes: each has a `config()` that returns a whole `LazyConfig` tree."""
