"""What several recipes need: baselines, decoders, measures, and where results go."""
