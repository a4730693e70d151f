"""A training step: layers composed once, added up to chunks of a pipeline, timed by closed form or by simulation."""
