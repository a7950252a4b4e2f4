"""The commands of ``python -m bench.privacy``, one a file: each reads its options, calls the library and prints."""
