"""Ops of torch.library that are right under every transform."""
