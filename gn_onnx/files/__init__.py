"""Models on disk: read without harm, written whole or not at all."""
