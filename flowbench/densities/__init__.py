"""The science of images: densities, their bases, preprocessing, noise, and the flows."""
