"""A demonstration on real data: denoise an image without a clean reference."""
