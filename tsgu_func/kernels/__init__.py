"""What runs on the device.  Nothing in here knows of autograd or of ``torch.library``."""
