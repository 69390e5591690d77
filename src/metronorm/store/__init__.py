"""From the training thread to files: ring, tape, Parquet."""
