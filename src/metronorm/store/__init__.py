"""From the training thread to files: ring, tape, Parquet."""

__all__: list[str] = []
