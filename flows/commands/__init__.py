"""The commands of `fm`, by what they work on."""
